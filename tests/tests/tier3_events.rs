//! Real containers: what happens to them is told with upstream's reasons, types and messages, as often.
//!
//! `KUBELET=path` compares another kubelet: the same expectations, against the events in its log.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Event;
use serde_json::json;
use tests::agent::{Agent, PodView as _, Seen};
use tests::containerd::Node;
use tests::scenario::{with_agent, with_nothing};
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(90);

/// Runs until it is told to stop.
const IDLE: &str = "command: [sh, -c, \"trap 'exit 0' TERM; sleep 100000 & wait\"]";
const PRESENT: &str =
    "Container image \"busybox:1.36\" already present on machine and can be accessed by the pod";

/// How often something is to be told.
#[derive(Clone, Copy, Debug)]
enum Times {
    Exactly(u32),
    AtLeast(u32),
}

use Times::{AtLeast, Exactly};

/// What is to be told of a pod: type, reason, place, message. A message may be just the beginning (`…` at its end).
type Expected = [(Times, String)];

fn line(times: Times, what: &str, message: &str) -> (Times, String) {
    (times, format!("{what} {message}"))
}

/// The events of a container that is made and started once from an image that is there.
fn started(path: &str, times: Times) -> Vec<(Times, String)> {
    vec![
        line(times, &format!("Normal Pulled {path}"), PRESENT),
        line(
            times,
            &format!("Normal Created {path}"),
            "Container created",
        ),
        line(
            times,
            &format!("Normal Started {path}"),
            "Container started",
        ),
    ]
}

fn is(event: &Seen, line: &str) -> bool {
    match line.strip_suffix('…') {
        Some(beginning) => event.to_string().starts_with(beginning),
        None => event.to_string() == *line,
    }
}

/// Exactly these events, in whatever order.
fn ensure_told(events: &[Seen], expected: &Expected) -> Result<()> {
    for (times, line) in expected {
        let count: u32 = events.iter().filter(|e| is(e, line)).map(|e| e.count).sum();
        let right = match *times {
            Exactly(n) => count == n,
            AtLeast(n) => count >= n,
        };
        ensure!(right, "{line}: {count} times, not {times:?}: {events:#?}");
    }
    let more = events
        .iter()
        .find(|event| !expected.iter().any(|(_, line)| is(event, line)));
    ensure!(more.is_none(), "nobody expects {more:?}");
    Ok(())
}

async fn told(agent: &Agent<'_>, pod: &str, expected: &Expected) -> Result<()> {
    eventually(&format!("the events of {pod}"), LIMIT, async || {
        ensure_told(&agent.events_of(pod)?, expected)
    })
    .await
}

fn pod(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}"
    )
}

/// A pod of one container.
fn simple(name: &str, fields: &str) -> String {
    let spec = format!("  containers:\n  - name: main\n    image: busybox:1.36\n    {fields}\n");
    pod(name, &spec)
}

/// Another kubelet logs its events from verbosity 3 on.
fn chatty(test: impl AsyncFnOnce(&Node, &Agent<'_>) -> Result<()>) {
    with_nothing(async |node, agent| {
        agent.configure("logging", json!({ "verbosity": 3 }))?;
        node.start_containerd().await?;
        agent.start().await?;
        test(node, agent).await
    });
}

#[test]
fn the_life_of_a_pod() {
    chatty(async |node, agent| {
        let init = format!(
            "  initContainers:\n  - name: first\n    image: busybox:1.36\n    command: [\"true\"]\n  - name: side\n    restartPolicy: Always\n    image: busybox:1.36\n    {IDLE}\n  containers:\n  - name: main\n    image: busybox:1.36\n    {IDLE}\n"
        );
        node.put("init.yaml", &pod("init", &init))?;
        let never = "  restartPolicy: Never\n  containers:\n  - name: main\n    image: busybox:1.36\n    command: [\"true\"]\n";
        node.put("job.yaml", &pod("job", never))?;
        node.put("plain.yaml", &simple("plain", IDLE))?;
        let init = agent.ready("init", LIMIT).await?;
        let mut expected = started("initContainers{first}", Exactly(1));
        expected.extend(started("initContainers{side}", Exactly(1)));
        expected.extend(started("containers{main}", Exactly(1)));
        told(agent, "init", &expected).await?;
        agent.phase("job", "Succeeded", LIMIT).await?;
        told(agent, "job", &started("containers{main}", Exactly(1))).await?;

        let plain = agent.ready("plain", LIMIT).await?;
        told(agent, "plain", &started("containers{main}", Exactly(1))).await?;
        let own = plain.container("main")?.container_id.clone();
        let own = own.context("no container id")?;
        let mut tasks = node.running_of(plain.uid())?;
        tasks.retain(|task| !own.ends_with(task));
        let [sandbox] = &tasks[..] else {
            anyhow::bail!("its sandbox is one of {tasks:?}");
        };
        node.ctr(&["tasks", "kill", "-s", "SIGKILL", sandbox])?;
        let mut again = started("containers{main}", Exactly(2));
        again.push(line(
            AtLeast(1),
            "Normal SandboxChanged -",
            "Pod sandbox changed, it will be killed and re-created.",
        ));
        let killing = line(
            AtLeast(1),
            "Normal Killing containers{main}",
            "Stopping container main",
        );
        again.push(killing.clone());
        told(agent, "plain", &again).await?;

        node.remove("init.yaml")?;
        agent.gone(&init, LIMIT).await?;
        expected.push(killing);
        expected.push(line(
            AtLeast(1),
            "Normal Killing initContainers{side}",
            "Stopping container side",
        ));
        told(agent, "init", &expected).await
    });
}

#[test]
fn what_does_not_start_says_why() {
    chatty(async |node, agent| {
        let main = "containers{main}";
        let failed = |message: &str| {
            line(
                AtLeast(1),
                &format!("Warning Failed {main}"),
                &format!("Error: {message}"),
            )
        };
        let image = |image: &str, more: &str| {
            format!("  containers:\n  - name: main\n    image: {image}\n    {more}\n")
        };
        node.put("crash.yaml", &simple("crash", "command: [\"false\"]"))?;
        node.put(
            "missing.yaml",
            &pod("missing", &image("nowhere.example/missing:1", "")),
        )?;
        node.put(
            "never.yaml",
            &pod("never", &image("missing:1", "imagePullPolicy: Never")),
        )?;
        node.put("badname.yaml", &pod("badname", &image("Bad/UPPER:1", "")))?;
        node.put(
            "root.yaml",
            &simple("root", "securityContext: {runAsNonRoot: true}"),
        )?;
        node.put("nofile.yaml", &simple("nofile", "command: [/no/such]"))?;
        let mount = format!(
            "  volumes:\n  - name: v\n    hostPath: {{path: /no/such, type: File}}\n  - name: w\n    hostPath: {{path: /nor/this, type: Directory}}\n{}",
            image(
                "busybox:1.36",
                "volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /w}]"
            )
        );
        node.put("mount.yaml", &pod("mount", &mount))?;

        let long = |name: &str| -> Result<String> {
            Ok(format!("{name}-node_default({})", agent.pod(name)?.uid()))
        };
        let pulling = "nowhere.example/missing:1";
        told(agent, "missing", &[
            line(AtLeast(2), &format!("Normal Pulling {main}"), &format!("Pulling image {pulling:?}")),
            line(
                AtLeast(2),
                &format!("Warning Failed {main}"),
                &format!("Failed to pull image {pulling:?}: failed to pull and unpack image {pulling:?}: failed to resolve reference {pulling:?}: …"),
            ),
            failed("ErrImagePull"),
            line(AtLeast(1), &format!("Normal BackOff {main}"), &format!("Back-off pulling image {pulling:?}")),
            failed("ImagePullBackOff"),
        ])
        .await?;
        told(
            agent,
            "never",
            &[
                line(
                    AtLeast(2),
                    &format!("Warning ErrImageNeverPull {main}"),
                    "Container image \"missing:1\" is not present with pull policy of Never",
                ),
                failed("ErrImageNeverPull"),
            ],
        )
        .await?;
        told(agent, "badname", &[
            line(
                AtLeast(1),
                &format!("Warning InspectFailed {main}"),
                "Failed to apply default image tag \"Bad/UPPER:1\": couldn't parse image name \"Bad/UPPER:1\": invalid reference format: repository name (UPPER) must be lowercase",
            ),
            failed("InvalidImageName"),
        ])
        .await?;
        let mut expected = started(main, AtLeast(3));
        let back_off = |name: &str| -> Result<_> {
            let message = format!(
                "Back-off restarting failed container main in pod {}",
                long(name)?
            );
            Ok(line(
                AtLeast(1),
                &format!("Warning BackOff {main}"),
                &message,
            ))
        };
        expected.push(back_off("crash")?);
        told(agent, "crash", &expected).await?;
        told(agent, "root", &[
            line(AtLeast(2), &format!("Normal Pulled {main}"), PRESENT),
            failed(&format!(
                "container has runAsNonRoot and image will run as root (pod: \"{}\", container: main)",
                long("root")?
            )),
        ])
        .await?;
        told(agent, "nofile", &[
            line(AtLeast(2), &format!("Normal Pulled {main}"), PRESENT),
            line(AtLeast(2), &format!("Normal Created {main}"), "Container created"),
            failed("failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"/no/such\": stat /no/such: no such file or directory: unknown"),
            back_off("nofile")?,
        ])
        .await?;
        told(agent, "mount", &[
            line(
                AtLeast(2),
                "Warning FailedMount -",
                "MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: /no/such is not a file",
            ),
            line(
                AtLeast(2),
                "Warning FailedMount -",
                "MountVolume.SetUp failed for volume \"w\" : hostPath type check failed: /nor/this is not a directory",
            ),
        ])
        .await
    });
}

#[test]
fn what_may_not_run_here_says_why() {
    chatty(async |node, agent| {
        let port = format!("{IDLE}\n    ports: [{{containerPort: 80, hostPort: 8080}}]");
        node.put("first.yaml", &simple("first", &port))?;
        agent.ready("first", LIMIT).await?;
        node.put("second.yaml", &simple("second", &port))?;
        let cpu = format!("{IDLE}\n    resources: {{requests: {{cpu: 1000}}}}");
        node.put("cpu.yaml", &simple("cpu", &cpu))?;
        let sysctl = simple("sysctl", IDLE).replace(
            "spec:\n",
            "spec:\n  securityContext: {sysctls: [{name: kernel.sem, value: '1'}]}\n",
        );
        node.put("sysctl.yaml", &sysctl)?;
        let selector =
            simple("elsewhere", IDLE).replace("spec:\n", "spec:\n  nodeSelector: {a: b}\n");
        node.put("elsewhere.yaml", &selector)?;
        told(agent, "second", &[line(
            Exactly(1),
            "Warning NodePorts -",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports…",
        )])
        .await?;
        told(agent, "cpu", &[line(
            Exactly(1),
            "Warning UnexpectedAdmissionError -",
            "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: …",
        )])
        .await?;
        told(
            agent,
            "sysctl",
            &[line(
                Exactly(1),
                "Warning SysctlForbidden -",
                "forbidden sysctl: \"kernel.sem\" not allowlisted",
            )],
        )
        .await?;
        told(
            agent,
            "elsewhere",
            &[line(
                Exactly(1),
                "Warning NodeAffinity -",
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            )],
        )
        .await?;

        let of_node = agent.events()?;
        let of_node: Vec<&Seen> = of_node.iter().filter(|e| e.kind == "Node").collect();
        let once = |line: &str| {
            let found: u32 = of_node
                .iter()
                .filter(|e| is(e, line))
                .map(|e| e.count)
                .sum();
            ensure!(found == 1, "{line}: {found} times: {of_node:#?}");
            Ok(())
        };
        once("Normal Starting - Starting kubelet.")?;
        once("Normal NodeAllocatableEnforced - Updated Node Allocatable limit across pods")?;
        ensure!(
            of_node.iter().all(|event| event.name == "node"),
            "{of_node:#?}"
        );
        Ok(())
    });
}

#[test]
fn a_node_without_a_network_says_so() {
    with_nothing(async |node, agent| {
        agent.configure("logging", json!({ "verbosity": 3 }))?;
        let (here, away) = (node.path("cni"), node.path("cni-away"));
        fs::create_dir(&away)?;
        let files: Vec<_> = fs::read_dir(&here)?.collect::<Result<_, _>>()?;
        let configured = files.into_iter().filter(|file| {
            file.path()
                .extension()
                .is_some_and(|e| e == "conflist" || e == "conf")
        });
        let configured: Vec<_> = configured.map(|file| file.file_name()).collect();
        ensure!(
            !configured.is_empty(),
            "no configuration in {}",
            here.display()
        );
        for name in &configured {
            fs::rename(here.join(name), away.join(name))?;
        }
        node.start_containerd().await?;
        agent.start().await?;
        node.put("a.yaml", &simple("a", IDLE))?;
        let not_ready = line(
            AtLeast(1),
            "Warning NetworkNotReady -",
            "network is not ready: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized",
        );
        told(agent, "a", std::slice::from_ref(&not_ready)).await?;
        // Written anew: containerd does not notice what is moved in.
        for name in &configured {
            fs::copy(away.join(name), here.join(name))?;
        }
        agent.ready("a", LIMIT).await?;
        let mut expected = started("containers{main}", Exactly(1));
        expected.push(not_ready);
        told(agent, "a", &expected).await
    });
}

#[test]
fn the_socket_is_the_administrators_alone_and_outlives_no_agent() {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        let socket = node.path(tests::agent::SOCKET);
        let meta = fs::symlink_metadata(&socket)?;
        ensure!(meta.file_type().is_socket() && meta.permissions().mode() & 0o7777 == 0o600);
        node.put("web.yaml", &simple("web", IDLE))?;
        agent.ready("web", LIMIT).await?;
        // A container is seen to run before the call that started it has returned, and been told of.
        told(agent, "web", &started("containers{main}", Exactly(1))).await?;
        ensure!(agent.ask_socket("/healthz")?.body == "ok");
        ensure!(agent.ask_socket("/pods")?.body.contains("\"web-node\""));
        ensure!(
            agent
                .ask_socket("/events?pod=other")?
                .body
                .ends_with("\"items\":null}\n")
        );
        let refused = agent.ask_socket("/events?pods=web")?;
        ensure!(refused.status == 400, "{refused:?}");

        let root = format!("--root-dir={}", node.path("kubelet").display());
        let binary = agent.binary().display().to_string();
        let shown = node.run(&binary, &["events", &root, "--pod", "web", "-n", "default"])?;
        print!("{shown}");
        let words: Vec<Vec<&str>> = shown
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        ensure!(words.len() == 4, "{shown}");
        ensure!(words[0][..3] == ["LAST", "SEEN", "TYPE"], "{shown}");
        ensure!(
            words[3][1..4] == ["Normal", "Started", "pod/web-node{main}"],
            "{shown}"
        );
        let json = node.run(&binary, &["events", &root, "-o", "json"])?;
        let list: k8s_openapi::List<Event> =
            serde_json::from_str(&json).context("read kubelet events -o json")?;
        let of_pod = |e: &&Event| e.involved_object.kind.as_deref() == Some("Pod");
        ensure!(list.items.iter().filter(of_pod).count() == 3, "{json}");

        agent.kill()?;
        ensure!(socket.exists(), "a killed agent leaves it");
        ensure!(agent.ask_socket("/healthz").is_err());
        agent.start().await?;
        ensure!(
            agent.ask_socket("/healthz")?.body == "ok",
            "the next one takes its place"
        );
        agent.terminate().await?;
        ensure!(!socket.exists(), "one that ends takes it away");
        let beside: Vec<_> = fs::read_dir(node.path("kubelet"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.contains(".sock"))
            .collect();
        ensure!(beside.is_empty(), "{beside:?}");
        Ok(())
    });
}
