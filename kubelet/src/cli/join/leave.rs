//! `kubelet leave`: takes back what `kubelet join` did. Pods of manifests run on; those of the cluster are ended by the agent
//! that no longer knows them.

use std::path::PathBuf;

use clap::Args;

use super::discovery::{is_valid, usable};
use super::failure::Failure;
use super::journal::{Journal, State};
use super::layout::Layout;
use super::server::{Server, Unanswered};
use super::{block_on, fail, say, service, warn};
use crate::errors::error_chain;
use crate::process::RootLock;

/// How to leave.
#[derive(Args, Debug)]
#[command(
    after_help = "Pods of manifests run on. Exit status: 0 when everything that kubelet join wrote is taken back, 1 when not."
)]
pub(in crate::cli) struct LeaveArguments {
    /// Below this directory instead of /
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

/// Leaves. The exit status.
pub(in crate::cli) fn run(arguments: &LeaveArguments) -> u8 {
    match block_on(leave(arguments)).and_then(|done| done) {
        Ok(()) => 0,
        Err(failure) => fail("leave", &failure),
    }
}

async fn leave(arguments: &LeaveArguments) -> Result<(), Failure> {
    let root =
        std::path::absolute(&arguments.root).map_err(Failure::file("find", &arguments.root))?;
    let layout = Layout { root };
    let Some(journal) = Journal::read(&layout.record())? else {
        return Err(Failure::Other(format!(
            "there is no {}: kubelet join has not joined this node (what kubeadm did, kubeadm reset takes back)",
            layout.record().display()
        )));
    };
    if journal.record.service.is_none()
        && let Err(error) = RootLock::check(&layout.kubelet())
    {
        return Err(Failure::Other(format!(
            "{}: end that agent first; its pods run on",
            error_chain(&error)
        )));
    }
    let node = journal.record.node.clone();
    let service = journal.record.service;
    let was_joined = journal.record.state == State::Joined || is_valid(&layout.kubeconfig()).await;
    if service.is_some() {
        say("[leave] Stopping the kubelet");
        service::stop()?;
    }
    if was_joined {
        forget_node(&layout, &node).await;
    }
    say("[leave] Taking back what kubelet join wrote");
    let (mut failures, kept) = journal.undo();
    for path in kept {
        say(&format!(
            "[leave] {} has what was edited since the join",
            path.display()
        ));
    }
    if let Some(before) = service {
        failures.extend(service::restore(before).err());
    }
    if !failures.is_empty() {
        for failure in &failures {
            warn(&format!("\t[WARNING]: {}", error_chain(failure)));
        }
        return Err(Failure::Other(
            "not everything could be taken back".to_owned(),
        ));
    }
    say("\nThis node has left the cluster: the files are as they were before kubelet join.");
    if service.is_none() {
        say("Start the agent as it was started before.");
    }
    Ok(())
}

/// Deletes the Node object where its own credentials may; else says who may.
async fn forget_node(layout: &Layout, node: &str) {
    let by_hand = |why: &str| {
        say(&format!(
            "[leave] The Node object stays ({why}): kubectl delete node {node}"
        ));
    };
    let Some((endpoint, _)) = usable(&layout.kubeconfig()).await else {
        return by_hand("there are no credentials");
    };
    let server = match Server::at(endpoint).await {
        Ok(server) => server,
        Err(failure) => return by_hand(&failure.to_string()),
    };
    match server.delete(&format!("/api/v1/nodes/{node}")).await {
        Ok(()) => say(&format!("[leave] Deleted the Node object {node:?}")),
        Err(Unanswered::Status(status)) if status.code == 404 => {}
        Err(Unanswered::Status(status)) if status.code == 403 => {
            by_hand("nodes may not delete themselves");
        }
        Err(unanswered) => by_hand(&server.failure(unanswered).to_string()),
    }
}
