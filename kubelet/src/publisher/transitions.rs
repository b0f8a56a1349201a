//! Changes of a status that would be lies. Pure.

use crate::pod::{self, ContainerKind, Pod, RestartPolicy};
use crate::status::PodStatus;

/// The container, if there is one, that was shown as ended for good and by `after` would not be: a mistake of the agent's,
/// which is not passed on (upstream's `checkContainerStateTransition`). `before` has what was shown as ended, with exit
/// codes.
pub(super) fn revived<'a>(
    pod: &Pod,
    before: impl IntoIterator<Item = (&'a str, i32)>,
    after: &PodStatus,
) -> Option<&'a str> {
    if RestartPolicy::of_pod(pod) == RestartPolicy::Always || pod::may_restart_all(pod) {
        return None;
    }
    before.into_iter().find_map(|(name, code)| {
        let (kind, container) = pod::containers(pod).find(|(_, c)| c.name == name)?;
        // Who restarts may leave its end behind; of a sidecar that goes without saying.
        let may = kind == ContainerKind::Sidecar || pod::should_restart(pod, kind, container, code);
        let ends = after.container(name)?.state.terminated().is_some();
        (!may && !ends).then_some(name)
    })
}

/// The containers that `status` shows as ended.
pub(super) fn ended(status: &PodStatus) -> impl Iterator<Item = (&str, i32)> {
    let all = status.init_containers.iter().chain(&status.containers);
    all.filter_map(|c| Some((&*c.name, c.state.terminated()?.exit_code)))
}
