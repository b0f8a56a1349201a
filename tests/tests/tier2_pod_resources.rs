//! The whole agent on a fake runtime, asked by monitoring agents who has which devices.

use anyhow::{Context as _, ensure};
use cri_proto::plugin_channel;
use cri_proto::podresources::pod_resources_lister_client::PodResourcesListerClient;
use cri_proto::podresources::{
    AllocatableResourcesRequest, ContainerDevices, GetPodResourcesRequest, ListPodResourcesRequest,
};
use cri_proto::podresources_alpha;
use cri_proto::podresources_alpha::pod_resources_lister_client::PodResourcesListerClient as AlphaClient;
use tests::device_plugin::{DevicePlugin, broken, device};
use tests::fake_runtime::Program;
use tests::in_process::{FakeNode, LIMIT, with_agent};
use tests::wait::eventually;
use tonic::Code;
use tonic::transport::Channel;

const DEV: &str = "example.com/dev";

fn channel(node: &FakeNode) -> Channel {
    plugin_channel(&node.path("kubelet/pod-resources/kubelet.sock"))
}

/// Resource, id and NUMA nodes, sorted.
fn shown(devices: &[ContainerDevices]) -> Vec<(String, String, Vec<i64>)> {
    let mut shown: Vec<_> = devices
        .iter()
        .map(|one| {
            let nodes = one
                .topology
                .iter()
                .flat_map(|t| t.nodes.iter().map(|n| n.id));
            (
                one.resource_name.clone(),
                one.device_ids.join(","),
                nodes.collect(),
            )
        })
        .collect();
    shown.sort();
    shown
}

fn of(entries: &[(&str, &[i64])]) -> Vec<(String, String, Vec<i64>)> {
    let entry = |(id, nodes): &(&str, &[i64])| (DEV.to_owned(), (*id).to_owned(), nodes.to_vec());
    entries.iter().map(entry).collect()
}

#[test]
fn what_containers_have_is_told_in_both_versions() {
    with_agent(async |node| {
        let plugin = DevicePlugin::new(
            &node.path("kubelet"),
            DEV,
            vec![device("a", &[0, 1]), device("b", &[]), broken("c")],
        )?;
        plugin.start().await?;
        node.runtime
            .program("init", Program::exits(0, std::time::Duration::ZERO));
        let limits = format!("resources: {{limits: {{{DEV}: 2}}}}");
        node.put(
            "a.yaml",
            &format!(
                "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{\
                 initContainers: [{{name: init, image: 'busybox:1'}}, {{name: side, image: 'busybox:1', restartPolicy: Always}}], \
                 containers: [{{name: main, image: 'busybox:1', {limits}}}]}}}}"
            ),
        )?;
        node.ready("a").await?;
        let mut client = PodResourcesListerClient::new(channel(node));
        let list = client.list(ListPodResourcesRequest {}).await?.into_inner();
        let [pod] = list.pod_resources.as_slice() else {
            anyhow::bail!("{list:?}");
        };
        let name = "a-node";
        ensure!(pod.name == name && pod.namespace == "default", "{pod:?}");
        let containers: Vec<&str> = pod.containers.iter().map(|c| c.name.as_str()).collect();
        ensure!(containers == ["side", "main"], "{pod:?}");
        ensure!(pod.containers[0].devices.is_empty());
        let main = shown(&pod.containers[1].devices);
        // One entry a device and node.
        ensure!(
            main == of(&[("a", &[0]), ("a", &[1]), ("b", &[])]),
            "{main:?}"
        );

        let request = GetPodResourcesRequest {
            pod_name: name.into(),
            pod_namespace: "default".into(),
        };
        let got = client.get(request).await?.into_inner().pod_resources;
        ensure!(got.as_ref() == Some(pod), "{got:?}");
        let request = GetPodResourcesRequest {
            pod_name: "b".into(),
            pod_namespace: "default".into(),
        };
        let missing = client.get(request).await.err().context("found")?;
        ensure!(
            missing.message() == "pod b in namespace default not found",
            "{missing}"
        );
        ensure!(missing.code() == Code::Unknown, "{missing}");

        let all = client.get_allocatable_resources(AllocatableResourcesRequest {});
        let all = all.await?.into_inner();
        ensure!(all.cpu_ids.is_empty() && all.memory.is_empty(), "{all:?}");
        let all = shown(&all.devices);
        ensure!(
            all == of(&[("a", &[0]), ("a", &[1]), ("b", &[])]),
            "{all:?}"
        );

        let mut alpha = AlphaClient::new(channel(node));
        let list = alpha.list(podresources_alpha::ListPodResourcesRequest {});
        let list = list.await?.into_inner();
        let [pod] = list.pod_resources.as_slice() else {
            anyhow::bail!("{list:?}");
        };
        let [main] = pod.containers.as_slice() else {
            anyhow::bail!("{pod:?}");
        };
        ensure!(main.name == "main" && main.devices.len() == 3, "{main:?}");
        Ok(())
    });
}

#[test]
fn pods_that_have_ended_are_left_out_but_for_those_that_ask_by_name() {
    with_agent(async |node| {
        node.runtime
            .program("main", Program::exits(0, std::time::Duration::ZERO));
        node.put(
            "a.yaml",
            "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {restartPolicy: Never, \
             containers: [{name: main, image: 'busybox:1'}]}}",
        )?;
        node.phase("a", "Succeeded").await?;
        let mut client = PodResourcesListerClient::new(channel(node));
        let list = client.list(ListPodResourcesRequest {}).await?.into_inner();
        ensure!(list.pod_resources.is_empty(), "{list:?}");
        let request = GetPodResourcesRequest {
            pod_name: "a-node".into(),
            pod_namespace: "default".into(),
        };
        let got = client.get(request).await?.into_inner();
        ensure!(got.pod_resources.is_some());
        Ok(())
    });
}

#[test]
fn who_asks_too_often_is_refused() {
    with_agent(async |node| {
        let mut client = PodResourcesListerClient::new(channel(node));
        eventually("it is served", LIMIT, async || {
            client.list(ListPodResourcesRequest {}).await?;
            Ok(())
        })
        .await?;
        let mut asks = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let mut client = client.clone();
            asks.spawn(async move { client.list(ListPodResourcesRequest {}).await });
        }
        let (mut answered, mut refused) = (0, 0);
        while let Some(asked) = asks.join_next().await {
            match asked? {
                Ok(_) => answered += 1,
                Err(status) => {
                    ensure!(status.code() == Code::ResourceExhausted, "{status}");
                    ensure!(status.message() == "rejected by rate limit", "{status}");
                    refused += 1;
                }
            }
        }
        // How many go through hangs on how long it takes.
        ensure!(
            answered >= 9 && refused > 0,
            "{answered} answered, {refused} refused"
        );
        eventually("it is answered again", LIMIT, async || {
            client.list(ListPodResourcesRequest {}).await?;
            Ok(())
        })
        .await
    });
}
