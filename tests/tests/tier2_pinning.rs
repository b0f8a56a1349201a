//! The whole agent on a fake runtime: containers with CPUs and memory for themselves, on this machine's own topology.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::plugin_channel;
use cri_proto::podresources::pod_resources_lister_client::PodResourcesListerClient;
use cri_proto::podresources::{
    AllocatableResourcesRequest, ContainerResources, ListPodResourcesRequest,
};
use kubelet::managers::{CpuSet, Machine, SYSTEM};
use serde_json::json;
use tests::agent::PodView as _;
use tests::in_process::{FakeNode, LIMIT, with_node};
use tests::wait::{eventually, throughout};

/// The CPU that is reserved, and those that are not; none on a machine with one CPU alone.
fn machine() -> Result<Option<(Machine, String)>> {
    let machine = Machine::read(SYSTEM.as_ref())?;
    let reserved: CpuSet = machine.all_cpus().first().into_iter().collect();
    let others = machine.all_cpus().difference(&reserved);
    if others.is_empty() {
        eprintln!("skipped: this machine has but one CPU");
        return Ok(None);
    }
    Ok(Some((machine, others.to_string())))
}

/// A pod of one container with this name, which asks for so many CPUs, and has as many for a limit.
fn guaranteed(name: &str, cpus: usize) -> String {
    let amounts = format!("{{cpu: '{cpus}', memory: 32Mi}}");
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, \
         containers: [{{name: {name}, image: 'busybox:1', resources: {{requests: {amounts}, limits: {amounts}}}}}]}}}}"
    )
}

fn best_effort(name: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, \
         containers: [{{name: {name}, image: 'busybox:1'}}]}}}}"
    )
}

fn static_cpus(node: &FakeNode, machine: &Machine) {
    let reserved = machine.all_cpus().first().unwrap_or(0).to_string();
    node.configure("cpuManagerPolicy", json!("static"));
    node.configure("reservedSystemCPUs", json!(reserved));
}

/// Each pod's only container has the pod's name.
fn of(name: &str) -> String {
    format!("{name}/{name}")
}

/// The CPUs that the container runs on by the runtime's account.
fn cpus(node: &FakeNode, container: &str) -> Result<String> {
    let running = node.running_now(&of(container));
    let [container] = running.as_slice() else {
        anyhow::bail!("{} of {container} run", running.len());
    };
    let resources = container.resources.as_ref().context("no resources")?;
    Ok(resources.cpuset_cpus.clone())
}

/// What the only container of a pod has, as a monitoring agent is told.
async fn told(node: &FakeNode, pod: &str) -> Result<ContainerResources> {
    let socket = node.path("kubelet/pod-resources/kubelet.sock");
    let mut client = PodResourcesListerClient::new(plugin_channel(&socket));
    let list = client.list(ListPodResourcesRequest {}).await?.into_inner();
    let name = format!("{pod}-node");
    let mut pods = list.pod_resources.into_iter();
    let pod = pods
        .find(|pod| pod.name == name)
        .context("it is not listed")?;
    pod.containers.into_iter().next().context("no container")
}

fn set(ids: &[i64]) -> Result<String> {
    let ids: Result<CpuSet, _> = ids.iter().map(|id| u32::try_from(*id)).collect();
    Ok(ids?.to_string())
}

async fn runs_on(node: &FakeNode, container: &str, expected: &str) -> Result<()> {
    eventually(
        &format!("{container} runs on {expected}"),
        LIMIT,
        async || {
            let now = cpus(node, container)?;
            ensure!(now == expected, "it runs on {now}");
            Ok(())
        },
    )
    .await
}

#[test]
fn whole_cpus_are_one_containers_own_and_the_others_share_the_rest() {
    with_node(async |node| {
        let Some((machine, others)) = machine()? else {
            return Ok(());
        };
        static_cpus(node, &machine);
        node.start_agent()?;
        let all = machine.all_cpus().to_string();
        let rest = machine.all_cpus().first().unwrap_or(0).to_string();
        node.put("shares.yaml", &best_effort("shares"))?;
        node.ready("shares").await?;
        runs_on(node, "shares", &all).await?;

        node.put("own.yaml", &guaranteed("own", machine.cpus.len() - 1))?;
        let own = node.ready("own").await?;
        runs_on(node, "own", &others).await?;
        runs_on(node, "shares", &rest).await?;
        let quota = node.running_now(&of("own"))[0]
            .resources
            .clone()
            .unwrap_or_default();
        ensure!(
            quota.cpu_quota == -1,
            "it is held to a quota: {}",
            quota.cpu_quota
        );

        ensure!(set(&told(node, "own").await?.cpu_ids)? == others);
        ensure!(told(node, "shares").await?.cpu_ids.is_empty());
        let socket = node.path("kubelet/pod-resources/kubelet.sock");
        let mut client = PodResourcesListerClient::new(plugin_channel(&socket));
        let allocatable = client.get_allocatable_resources(AllocatableResourcesRequest {});
        ensure!(set(&allocatable.await?.into_inner().cpu_ids)? == others);

        // There is no room for another.
        node.put("second.yaml", &guaranteed("second", 1))?;
        let refused = node.phase("second", "Failed").await?;
        let status = refused.status.clone().unwrap_or_default();
        ensure!(
            status.reason.as_deref() == Some("UnexpectedAdmissionError"),
            "{:?}",
            status.reason
        );
        let expected = "Pod was rejected: Allocate failed due to not enough cpus available to satisfy request: requested=1, available=0, which is unexpected";
        ensure!(
            status.message.as_deref() == Some(expected),
            "{:?}",
            status.message
        );

        // The next agent changes nothing.
        let before = node.running_now(&of("own"))[0].id.clone();
        node.kill_agent()?;
        node.start_agent()?;
        node.ready("own").await?;
        node.ready("shares").await?;
        throughout(
            "who has what is as before",
            Duration::from_secs(2),
            async || {
                ensure!(cpus(node, "own")? == others && cpus(node, "shares")? == rest);
                ensure!(node.running_now(&of("own"))[0].id == before);
                Ok(())
            },
        )
        .await?;

        // What it had goes to the one that waits for it.
        node.remove("own.yaml")?;
        node.gone(&own).await?;
        node.ready("second").await?;
        node.remove("second.yaml")?;
        runs_on(node, "shares", &all).await
    });
}

#[test]
fn a_corrupt_state_is_made_anew_from_what_runs() {
    with_node(async |node| {
        let Some((machine, others)) = machine()? else {
            return Ok(());
        };
        static_cpus(node, &machine);
        node.start_agent()?;
        let rest = machine.all_cpus().first().unwrap_or(0).to_string();
        node.put("own.yaml", &guaranteed("own", machine.cpus.len() - 1))?;
        node.put("shares.yaml", &best_effort("shares"))?;
        node.ready("own").await?;
        node.ready("shares").await?;
        runs_on(node, "shares", &rest).await?;
        let before: Vec<String> = ["own", "shares"]
            .map(|name| node.running_now(&of(name))[0].id.clone())
            .into();
        node.kill_agent()?;
        let state = node.path("kubelet").join("cpu_manager_state");
        let good = std::fs::read_to_string(&state)?;
        let bad = good.replace("policyName", "policyNome");
        std::fs::write(&state, &bad)?;
        // Another that wants the same CPUs must not get them meanwhile.
        node.put("a.yaml", &guaranteed("a", 1))?;
        node.start_agent()?;
        node.ready("own").await?;
        node.ready("shares").await?;
        node.phase("a", "Failed").await?;
        eventually("the state is as it was", LIMIT, async || {
            let now = std::fs::read_to_string(&state)?;
            ensure!(now == good, "it is {now}, and was {good}");
            Ok(())
        })
        .await?;
        let aside = std::fs::read_to_string(state.with_extension("corrupt"))?;
        ensure!(aside == bad);
        ensure!(
            node.log()
                .contains("the state file of the CPU manager is corrupt")
        );
        throughout(
            "nothing changes for what runs",
            Duration::from_secs(2),
            async || {
                ensure!(cpus(node, "own")? == others && cpus(node, "shares")? == rest);
                let now: Vec<String> = ["own", "shares"]
                    .map(|name| node.running_now(&of(name))[0].id.clone())
                    .into();
                ensure!(now == before, "they were restarted");
                Ok(())
            },
        )
        .await
    });
}

#[test]
fn another_policy_than_the_states_is_refused() {
    with_node(async |node| {
        let Some((machine, _)) = machine()? else {
            return Ok(());
        };
        static_cpus(node, &machine);
        node.start_agent()?;
        let state = node.path("kubelet").join("cpu_manager_state");
        eventually("the state is there", LIMIT, async || {
            ensure!(state.exists());
            Ok(())
        })
        .await?;
        node.kill_agent()?;
        node.configure("cpuManagerPolicy", json!("none"));
        node.start_agent()?;
        eventually("the agent has ended", LIMIT, async || {
            ensure!(node.agent_ended());
            Ok(())
        })
        .await?;
        let Err(error) = node.kill_agent() else {
            anyhow::bail!("it runs");
        };
        let error = format!("{error:#}");
        let expected = "could not restore state from checkpoint: configured policy \"none\" differs from state checkpoint policy \"static\", please drain this node and delete the CPU manager checkpoint file";
        ensure!(error.contains(expected), "{error}");
        Ok(())
    });
}

#[test]
fn memory_of_a_guaranteed_pod_comes_from_its_nodes() {
    with_node(async |node| {
        let machine = Machine::read(SYSTEM.as_ref())?;
        let first = machine.nodes.first().context("no NUMA node")?.id;
        node.configure("memoryManagerPolicy", json!("Static"));
        node.configure("topologyManagerPolicy", json!("single-numa-node"));
        node.configure("systemReserved", json!({"memory": "100Mi"}));
        node.configure("evictionHard", json!({"memory.available": "10Mi"}));
        node.configure(
            "reservedMemory",
            json!([{"numaNode": first, "limits": {"memory": "110Mi"}}]),
        );
        node.start_agent()?;
        node.put("own.yaml", &guaranteed("own", 1))?;
        node.put("shares.yaml", &best_effort("shares"))?;
        node.ready("own").await?;
        node.ready("shares").await?;
        let mems = |name: &str| -> Result<String> {
            let running = node.running_now(&of(name));
            let container = running.first().context("it does not run")?;
            let resources = container.resources.clone().context("no resources")?;
            Ok(resources.cpuset_mems)
        };
        let of_own: u32 = mems("own")?.parse()?;
        ensure!(machine.nodes.iter().any(|node| node.id == of_own));
        ensure!(mems("shares")?.is_empty());
        let state = node.path("kubelet").join("memory_manager_state");
        let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state)?)?;
        let uid = node.pod("own")?.uid().to_owned();
        let expected = json!([{"numaAffinity": [of_own], "type": "memory", "size": 32 << 20}]);
        ensure!(state["entries"][&uid]["own"] == expected, "{state}");
        let memory = told(node, "own").await?.memory;
        ensure!(
            memory.len() == 1 && memory[0].memory_type == "memory" && memory[0].size == 32 << 20,
            "{memory:?}"
        );
        Ok(())
    });
}
