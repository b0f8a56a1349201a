//! The whole agent on a fake runtime: pods with users of their own (`hostUsers: false`).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tests::agent::PodView as _;
use tests::fake_runtime::{Code, Container, Fault, Mapping};
use tests::in_process::{FakeNode, with_agent, with_node};
use tests::wait::eventually;

/// What the ids of a pod stand for: 65536 of them, from the pod's root on.
const IDS: u32 = 65_536;

const MINUTE: Duration = Duration::from_secs(60);

/// A pod of one container with a volume, and users of its own.
fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  hostUsers: false\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: busybox:1\n    \
         volumeMounts: [{{ name: v, mountPath: /v }}]\n  volumes: [{{ name: v, emptyDir: {{}} }}]\n"
    )
}

fn start_able_agent(node: &FakeNode) -> Result<()> {
    node.runtime.set_user_namespaces(true);
    node.start_agent()
}

fn file(node: &FakeNode, pod: &Pod) -> PathBuf {
    node.pod_dir(pod).join("userns")
}

/// The ids of the only container of a pod, which its sandbox and all its mounts have too, and the file in its directory.
fn ids_of(node: &FakeNode, pod: &Pod, running: &Container) -> Result<Mapping> {
    let users = running.users();
    let [(0, first, length)] = users.as_slice() else {
        anyhow::bail!("its users: {users:?}");
    };
    let sandboxes = node.runtime.sandboxes();
    let sandbox = sandboxes.iter().find(|s| s.id == running.sandbox_id);
    ensure!(sandbox.context("no sandbox")?.users() == users);
    let mut at = Vec::new();
    for mount in &running.config.mounts {
        for ids in [&mount.uid_mappings, &mount.gid_mappings] {
            let [one] = ids.as_slice() else {
                anyhow::bail!("{}: {ids:?}", mount.container_path);
            };
            ensure!((one.container_id, one.host_id, one.length) == users[0]);
        }
        at.push(mount.container_path.as_str());
    }
    ensure!(at.contains(&"/v") && at.contains(&"/etc/hosts"), "{at:?}");
    let one = format!(r#"[{{"hostId":{first},"containerId":0,"length":{length}}}]"#);
    let kept = fs::read_to_string(file(node, pod))?;
    ensure!(
        kept == format!(r#"{{"uidMappings":{one},"gidMappings":{one}}}"#),
        "{kept}"
    );
    Ok(users[0])
}

async fn ready_with_ids(node: &FakeNode, name: &str) -> Result<(Pod, Mapping)> {
    // What has failed is not tried again at once.
    let pod = eventually(&format!("{name} is ready"), MINUTE, async || {
        let pod = node.pod(name)?;
        ensure!(pod.container("main")?.ready, "{}", pod.describe());
        Ok(pod)
    })
    .await?;
    let running = node.only(&format!("{name}/main")).await?;
    let ids = ids_of(node, &pod, &running)?;
    Ok((pod, ids))
}

fn apart((_, a, a_length): Mapping, (_, b, b_length): Mapping) -> bool {
    u64::from(a) + u64::from(a_length) <= u64::from(b)
        || u64::from(b) + u64::from(b_length) <= u64::from(a)
}

/// Waits until an event of a pod says why it has no sandbox.
async fn is_told(node: &FakeNode, name: &str, why: &str) -> Result<()> {
    let what = format!("{name} is told {why}");
    let event = format!("Failed to create pod sandbox: {why}");
    let pod = format!("pod={name}-node_default");
    eventually(&what, MINUTE, async || {
        let log = node.log();
        let told = log
            .lines()
            .any(|line| line.contains(&event) && line.contains(&pod));
        ensure!(told);
        Ok(())
    })
    .await
}

#[test]
fn a_pod_has_ids_of_its_own_and_keeps_them() {
    with_node(async |node| {
        start_able_agent(node)?;
        node.put("a.yaml", &pod("a"))?;
        node.put("b.yaml", &pod("b"))?;
        let (a, ids) = ready_with_ids(node, "a").await?;
        let (_, others) = ready_with_ids(node, "b").await?;
        ensure!(ids.2 == IDS && ids.1 >= IDS && ids.1 % IDS == 0, "{ids:?}");
        ensure!(apart(ids, others), "{ids:?} and {others:?}");
        node.put(
            "plain.yaml",
            &pod("plain").replace("  hostUsers: false\n", ""),
        )?;
        let plain = node.ready("plain").await?;
        ensure!(node.only("plain/main").await?.users().is_empty());
        ensure!(!file(node, &plain).exists());

        // The next agent goes on with them: in the container that runs, in its successor, and in a new sandbox.
        let before = node.only("a/main").await?.id;
        node.kill_agent()?;
        node.start_agent()?;
        node.ready("a").await?;
        ensure!(node.only("a/main").await?.id == before, "it runs on");
        node.runtime.kill_container(&before, 1);
        let after = another(node, &before).await?;
        ensure!(ids_of(node, &a, &after)? == ids);
        node.runtime.kill_sandbox(&after.sandbox_id);
        let anew = another(node, &after.id).await?;
        ensure!(anew.sandbox_id != after.sandbox_id);
        ensure!(ids_of(node, &a, &anew)? == ids);

        node.remove("a.yaml")?;
        node.gone(&a).await?;
        ensure!(!file(node, &a).exists());
        ensure!(ready_with_ids(node, "b").await?.1 == others);
        Ok(())
    });
}

/// Waits until another instance of a's container runs.
async fn another(node: &FakeNode, id: &str) -> Result<Container> {
    eventually("another instance runs", MINUTE, async || {
        let running = node.running_now("a/main");
        let other = running.into_iter().find(|running| running.id != id);
        other.context("none")
    })
    .await
}

#[test]
fn a_runtime_that_cannot_is_named_and_the_pod_begins_once_it_can() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a"))?;
        node.waiting("a", "main", "ContainerCreating").await?;
        let text = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
        is_told(node, "a", text).await?;
        ensure!(node.runtime.sandboxes().is_empty());
        node.runtime.set_user_namespaces(true);
        ready_with_ids(node, "a").await?;
        Ok(())
    });
}

#[test]
fn when_all_ids_are_taken_a_pod_waits_for_those_of_another() {
    with_node(async |node| {
        // There is one range alone.
        node.configure("maxPods", json!(1));
        node.configure("userNamespaces", json!({"idsPerPod": 1_u32 << 31}));
        start_able_agent(node)?;
        node.put("a.yaml", &pod("a"))?;
        let (a, ids) = ready_with_ids(node, "a").await?;
        ensure!(ids == (0, 1 << 31, 1 << 31), "{ids:?}");
        // Nothing runs of it any more, and yet it cannot give back its volumes: the agent removes none of this kind.
        let left = node.pod_dir(&a).join("volumes/kubernetes.io~nfs/left");
        fs::create_dir_all(&left)?;
        fs::write(left.join("file"), "")?;
        node.remove("a.yaml")?;
        node.put("b.yaml", &pod("b"))?;
        let text =
            "create user namespace: could not find an empty slot to allocate a user namespace";
        is_told(node, "b", text).await?;
        ensure!(file(node, &a).exists());
        fs::remove_file(left.join("file"))?;
        ensure!(ready_with_ids(node, "b").await?.1 == ids);
        Ok(())
    });
}

#[test]
fn a_torn_file_ends_nothing_and_frees_nothing() {
    with_node(async |node| {
        // There are three ranges.
        node.configure("maxPods", json!(3));
        node.configure("userNamespaces", json!({"idsPerPod": 1_u32 << 30}));
        start_able_agent(node)?;
        node.put("a.yaml", &pod("a"))?;
        let (a, ids) = ready_with_ids(node, "a").await?;
        let before = node.only("a/main").await?.id;
        node.kill_agent()?;
        let whole = fs::read_to_string(file(node, &a))?;
        fs::write(file(node, &a), &whole[..40])?;
        let silent = Fault::on("PodSandboxStatus").fails(Code::Internal, "not now");
        node.start_agent()?;
        node.ready("a").await?;
        node.runtime.fault(silent);
        node.put("b.yaml", &pod("b"))?;
        let uid = a.uid();
        let text = format!("the ids of the user namespace of pod {uid} are not known");
        is_told(node, "b", &text).await?;
        node.runtime.clear_faults();
        let (_, others) = ready_with_ids(node, "b").await?;
        ensure!(apart(ids, others), "{ids:?} and {others:?}");
        ensure!(fs::read_to_string(file(node, &a))? == whole, "mended");
        ensure!(node.only("a/main").await?.id == before, "it ran all along");
        node.runtime.kill_container(&before, 1);
        ensure!(ids_of(node, &a, &another(node, &before).await?)? == ids);
        Ok(())
    });
}

#[test]
fn ids_are_counted_otherwise_only_for_new_sandboxes() {
    with_node(async |node| {
        start_able_agent(node)?;
        node.put("a.yaml", &pod("a"))?;
        let (a, ids) = ready_with_ids(node, "a").await?;
        let before = node.only("a/main").await?;
        node.kill_agent()?;
        node.configure("userNamespaces", json!({"idsPerPod": 2 * IDS}));
        node.start_agent()?;
        node.put("b.yaml", &pod("b"))?;
        let (_, others) = ready_with_ids(node, "b").await?;
        ensure!(others.2 == 2 * IDS && apart(ids, others), "{others:?}");
        // A container more in the sandbox that is there has its ids.
        node.runtime.kill_container(&before.id, 1);
        let after = another(node, &before.id).await?;
        ensure!(after.sandbox_id == before.sandbox_id);
        ensure!(ids_of(node, &a, &after)? == ids);
        node.runtime.kill_sandbox(&after.sandbox_id);
        let anew = ids_of(node, &a, &another(node, &after.id).await?)?;
        ensure!(anew.2 == 2 * IDS && apart(anew, others), "{anew:?}");
        Ok(())
    });
}
