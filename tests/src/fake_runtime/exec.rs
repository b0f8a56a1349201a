//! Commands run in a container, as scripted.

use std::time::Duration;

use cri_proto::v1;
use tonic::Status;

use super::program::{EXIT_SIGKILL, ExecAnswer};
use super::service::Service;

impl Service {
    /// Runs `command` in the container `id`, which is also called `subject`; `timeout` in seconds, 0 for none.
    pub(super) async fn exec(
        &self,
        id: &str,
        subject: &str,
        command: &[String],
        timeout: i64,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let script = {
            let store = self.lock();
            let container = store.container(id).map_err(|_| {
                Status::not_found(format!(
                    "failed to exec in container: failed to find container {id:?} in store: not found"
                ))
            })?;
            if container.state != v1::ContainerState::ContainerRunning {
                return Err(Status::unknown(format!(
                    "failed to exec in container: container is in {} state",
                    container.state.as_str_name()
                )));
            }
            store.exec_script(subject)
        };
        let answer = script.map_or_else(ExecAnswer::default, |script| script.0(command));
        let limit = Duration::from_secs(u64::try_from(timeout).unwrap_or_default());
        if !limit.is_zero() && answer.takes > limit {
            tokio::time::sleep(limit).await;
            return Err(Status::deadline_exceeded(format!(
                "failed to exec in container: timeout {}s exceeded: context deadline exceeded",
                limit.as_secs()
            )));
        }
        let killed = self.until(|store| {
            let container = store.containers.get(id);
            container.is_none_or(|c| !c.running).then_some(())
        });
        // A command goes with its container, killed.
        tokio::select! {
            biased;
            () = tokio::time::sleep(answer.takes) => {}
            () = killed => return Ok(v1::ExecSyncResponse {
                exit_code: EXIT_SIGKILL,
                ..v1::ExecSyncResponse::default()
            }),
        }
        Ok(v1::ExecSyncResponse {
            stdout: answer.stdout.into_bytes(),
            stderr: answer.stderr.into_bytes(),
            exit_code: answer.exit_code,
        })
    }
}
