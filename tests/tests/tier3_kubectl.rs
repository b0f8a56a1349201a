//! `kubectl` through a real kube-apiserver to the API of a node with real containers: what it asks of the node goes by
//! client certificate, TokenReview and SubjectAccessReview as in a cluster. Needs `KUBEBUILDER_ASSETS` with
//! `kube-apiserver`, `etcd` and `kubectl`; without it, standard error says that it was skipped.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use serde_json::{Value, json};
use tests::agent::{Agent, NODE_NAME};
use tests::cluster::{API_SERVER, NodeCluster, kubectl_assets};
use tests::containerd::Node;
use tests::images::INDEX_HTML;
use tests::prometheus;
use tests::scenario::with_node;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(90);
/// The path of the node's own API.
const NODE: &str = "/api/v1/nodes/node/proxy";

#[test]
fn kubectl_has_from_the_node_what_it_asks_for() {
    let Some(assets) = kubectl_assets("kubectl through a real API server") else {
        return;
    };
    with_node(async |node| {
        let cluster = NodeCluster::start(&assets, node).await?;
        let agent = cluster.join(node, Agent::new(node)?)?;
        agent.start().await?;
        eventually("the node is registered and ready", LIMIT, async || {
            let node = cluster.get(&["node", NODE_NAME])?;
            let conditions = node["status"]["conditions"].as_array();
            let ready = conditions.into_iter().flatten();
            let mut ready = ready.filter(|condition| condition["type"] == "Ready");
            let ready = ready.next().context("no condition")?;
            ensure!(ready["status"] == "True", "{ready}");
            Ok(())
        })
        .await?;
        rights(&cluster).await.context("rights")?;
        for pod in [shell(), crash(), counter()] {
            cluster.create(&pod)?;
        }
        cluster.out(&[
            "wait",
            "--for=condition=Ready",
            "pod/shell",
            "--timeout=80s",
        ])?;
        commands(&cluster).context("exec")?;
        first_process(&cluster).context("attach")?;
        ports(&cluster, node).await.context("port-forward")?;
        copies(&cluster, node).context("cp")?;
        logs(&cluster).await.context("logs")?;
        paths(&cluster, &agent).await.context("paths of the node")?;
        clients(&cluster).await.context("clients of the node")
    });
}

/// The API server is known by its certificate, and is asked about at the API server.
async fn rights(cluster: &NodeCluster) -> Result<()> {
    let pods = format!("{NODE}/pods");
    let ran = cluster.run(&["get", "--raw", &pods])?;
    ensure!(ran.code == Some(1), "{ran:?}");
    let refused = "Forbidden (user=kube-apiserver-kubelet-client, verb=get, resource=nodes, subresource(s)=[pods proxy])";
    ensure!(
        (ran.text() + &ran.err).contains(refused),
        "no {refused:?} in {} {}",
        ran.text(),
        ran.err
    );
    cluster.allow_api_server()?;
    eventually("the API server may ask the node", LIMIT, async || {
        let list: Value = serde_json::from_str(&cluster.out(&["get", "--raw", &pods])?)?;
        ensure!(list["kind"] == "PodList", "{list}");
        Ok(())
    })
    .await
}

fn commands(cluster: &NodeCluster) -> Result<()> {
    let exec =
        |script: &str| cluster.run(&["exec", "shell", "-c", "main", "--", "sh", "-c", script]);
    let ran = exec("echo out; echo err >&2; exit 3")?;
    ensure!(ran.code == Some(3) && ran.text() == "out\n", "{ran:?}");
    ensure!(
        ran.err == "err\ncommand terminated with exit code 3\n",
        "{ran:?}"
    );
    let input: Vec<u8> = (0..8_u32 << 20).flat_map(u32::to_le_bytes).collect();
    let cat = ["exec", "-i", "shell", "-c", "main", "--", "cat"];
    let ran = cluster.with_input(&cat, &input)?;
    ensure!(ran.code == Some(0), "{:?} {}", ran.code, ran.err);
    ensure!(
        ran.out == input,
        "{} bytes of {} came back, or others",
        ran.out.len(),
        input.len()
    );
    let terminal = [
        "exec",
        "-it",
        "shell",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "tty; exit 4",
    ];
    if Path::new("/usr/bin/script").exists() {
        let ran = cluster.on_terminal(&terminal)?;
        ensure!(
            ran.code == Some(4) && ran.text().contains("/dev/pts/"),
            "{ran:?}"
        );
    } else {
        eprintln!("skipped: a terminal: there is no script(1)");
    }
    let ran = cluster.run(&["exec", "shell", "-c", "main", "--", "/no/such/thing"])?;
    ensure!(
        ran.code != Some(0) && ran.err.contains("no such file"),
        "{ran:?}"
    );
    Ok(())
}

fn first_process(cluster: &NodeCluster) -> Result<()> {
    let mut attached = cluster.spawn(&["attach", "-i", "shell", "-c", "reader"])?;
    attached.say("to the first process")?;
    attached.until(|line| (line == "heard to the first process").then_some(()))
}

async fn ports(cluster: &NodeCluster, node: &Node) -> Result<()> {
    let mut forward = cluster.spawn(&["port-forward", "pod/shell", ":8080"])?;
    let address = forward.until(|line| {
        let line = line.strip_prefix("Forwarding from ")?;
        let (address, _) = line.split_once(" -> 8080")?;
        address
            .starts_with("127.0.0.1:")
            .then(|| address.to_owned())
    })?;
    // Twice: a second connection goes over the same stream of kubectl's.
    for _ in 0..2 {
        eventually("the page comes through", LIMIT, async || {
            let page = node.http_get(&address, "/index.html")?;
            ensure!(page.status == 200 && page.body == INDEX_HTML, "{page:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn copies(cluster: &NodeCluster, node: &Node) -> Result<()> {
    let content: Vec<u8> = (0..1_u32 << 20)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let (there, back) = (node.path("there"), node.path("back"));
    fs::write(&there, &content)?;
    let copy = |from: &str, to: &str| cluster.out(&["cp", "-c", "main", from, to]);
    let inside = "shell:/tmp/copied";
    copy(&there.display().to_string(), inside)?;
    copy(inside, &back.display().to_string())?;
    ensure!(fs::read(&back)? == content, "it is not what was copied");
    Ok(())
}

async fn logs(cluster: &NodeCluster) -> Result<()> {
    let logs = |args: &[&str]| cluster.out(&[&["logs"], args].concat());
    let own = |log: &str| log.lines().next().map(str::to_owned);
    let now = eventually("it has crashed and logs again", LIMIT, async || {
        let pod = cluster.get(&["pod", "crash"])?;
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(
            status["restartCount"] == 1 && status["ready"] == true,
            "{status}"
        );
        let now = logs(&["crash"])?;
        ensure!(now.ends_with("line 100\n"), "{now}");
        Ok(now)
    })
    .await?;
    let before = logs(&["--previous", "crash"])?;
    ensure!(
        before.ends_with("line 100\n") && own(&before) != own(&now),
        "{before}"
    );
    ensure!(
        logs(&["--tail=2", "crash"])? == "line 99\nline 100\n",
        "the last two lines"
    );
    ensure!(logs(&["--since=1h", "crash"])? == now, "of the last hour");
    let later = logs(&["--since-time=2100-01-01T00:00:00Z", "crash"])?;
    ensure!(later.is_empty(), "of the next century: {later}");
    ensure!(
        logs(&["--limit-bytes=9", "crash"])? == now[..9],
        "nine bytes"
    );
    let timed = logs(&["--timestamps", "--tail=1", "crash"])?;
    let (time, line) = timed.split_once(' ').context("a time")?;
    ensure!(
        time.ends_with('Z') && time.contains('T') && line == "line 100\n",
        "{timed}"
    );
    let whole: String = (1..=200).map(|n| format!("line {n}\n")).collect();
    ensure!(
        logs(&["-f", "counter"])? == whole,
        "what was followed to its end"
    );
    let prefixed = logs(&["--all-containers", "--prefix", "--tail=1", "shell"])?;
    ensure!(
        prefixed.contains("[pod/shell/reader] heard to the first process\n"),
        "{prefixed}"
    );
    let none = cluster.run(&["logs", "--previous", "shell", "-c", "main"])?;
    ensure!(
        none.code == Some(1) && none.err.contains("previous terminated container"),
        "{none:?}"
    );
    Ok(())
}

async fn paths(cluster: &NodeCluster, agent: &Agent<'_>) -> Result<()> {
    let raw = |path: &str| cluster.out(&["get", "--raw", &format!("{NODE}{path}")]);
    let pods: Value = serde_json::from_str(&raw("/pods")?)?;
    let names = pods["items"].as_array().context("no pods")?.iter();
    let mut names: Vec<_> = names.map(|pod| &pod["metadata"]["name"]).collect();
    names.sort_by_key(|name| name.to_string());
    ensure!(names == ["counter", "crash", "shell"], "{names:?}");
    let running: Value = serde_json::from_str(&raw("/runningpods/")?)?;
    ensure!(running["kind"] == "PodList", "{running}");

    let configz: Value = serde_json::from_str(&raw("/configz")?)?;
    let config = &configz["kubeletconfig"];
    ensure!(config["cgroupRoot"].is_string(), "{configz}");
    ensure!(config["authorization"]["mode"] == "Webhook", "{configz}");

    eventually("there are rates of CPU", LIMIT, async || {
        let summary: Value = serde_json::from_str(&raw("/stats/summary")?)?;
        ensure!(summary["node"]["nodeName"] == NODE_NAME, "{summary}");
        let pods = summary["pods"].as_array().context("no pods")?;
        let shell = pods.iter().find(|pod| pod["podRef"]["name"] == "shell");
        let containers = shell.context("no shell")?["containers"].as_array();
        let containers = containers.context("no containers")?;
        ensure!(containers.len() == 3, "{containers:?}");
        for container in containers {
            let used = &container["memory"]["workingSetBytes"];
            ensure!(used.as_u64().is_some_and(|bytes| bytes > 0), "{container}");
        }
        Ok(())
    })
    .await?;
    for (path, family) in [
        ("/metrics", "kubelet_running_pods"),
        ("/metrics/cadvisor", "container_cpu_usage_seconds_total"),
        ("/metrics/resource", "container_memory_working_set_bytes"),
        ("/metrics/probes", "prober_probe_total"),
    ] {
        eventually(&format!("{path} has {family}"), LIMIT, async || {
            let text = raw(path)?;
            let metrics = prometheus::parse(&text).map_err(Error::msg)?;
            ensure!(metrics.families.contains_key(family), "not in {text}");
            Ok(())
        })
        .await?;
    }
    ensure!(raw("/healthz")? == "ok", "/healthz");
    ensure!(raw("/healthz/syncloop")? == "ok", "/healthz/syncloop");
    let logs = raw("/logs/")?;
    ensure!(logs.contains("<pre>"), "{logs}");
    // What the role of 1.36 for API servers has no leave for.
    let more = ["statusz", "checkpoint"];
    cluster.allow(API_SERVER, &["get", "create"], &more)?;
    // kubectl takes JSON or anything, which is the text.
    for (path, known) in [
        ("/flagz", "hostname-override"),
        ("/statusz", "/configz /debug /flagz /healthz /metrics"),
    ] {
        eventually(&format!("{path} is shown"), LIMIT, async || {
            let page = raw(path)?;
            ensure!(page.contains(known), "{path}: {page}");
            Ok(())
        })
        .await?;
    }
    // This containerd makes no checkpoints, and whoever asks is told in its words.
    let checkpoint = format!("{NODE}/checkpoint/default/shell/main");
    let why = "checkpointing of default/shell/main failed (rpc error: code = Unimplemented";
    eventually("no checkpoint is made", LIMIT, async || {
        let refused = cluster.with_input(&["create", "--raw", &checkpoint, "-f", "-"], b"{}")?;
        ensure!(
            refused.code == Some(1) && (refused.text() + &refused.err).contains(why),
            "{refused:?}"
        );
        Ok(())
    })
    .await?;
    let missing = cluster.run(&["get", "--raw", &format!("{NODE}/nothing")])?;
    ensure!(missing.code == Some(1), "{missing:?}");
    ensure!(agent.ended()?.is_none(), "the agent has ended");
    Ok(())
}

/// Who asks the node itself, with a certificate of the cluster's, may do what the API server says.
async fn clients(cluster: &NodeCluster) -> Result<()> {
    if !Path::new("/usr/bin/curl").exists() {
        eprintln!("skipped: clients of the node itself: there is no curl(1)");
        return Ok(());
    }
    cluster.allow("scraper", &["get"], &["metrics", "stats"])?;
    cluster.allow("reader", &["get"], &["proxy"])?;
    let (code, body) = cluster.curl(None, "GET", "/metrics")?;
    ensure!(code == 401 && body == "Unauthorized", "{code} {body}");
    let (code, body) = cluster.curl(Some("nobody"), "GET", "/metrics")?;
    let refused = "Forbidden (user=nobody, verb=get, resource=nodes, subresource(s)=[metrics])\n";
    ensure!(code == 403 && body == refused, "{code} {body}");
    // A binding takes a moment to count at the API server.
    eventually("the scraper may scrape", LIMIT, async || {
        let (code, body) = cluster.curl(Some("scraper"), "GET", "/metrics")?;
        ensure!(code == 200, "{code} {body}");
        let (code, body) = cluster.curl(Some("reader"), "GET", "/pods")?;
        ensure!(code == 200, "{code} {body}");
        Ok(())
    })
    .await?;
    let exec = "/exec/default/shell/main?command=true&output=1";
    for (user, method, path, expected) in [
        ("scraper", "GET", "/metrics/cadvisor", 200),
        ("scraper", "GET", "/metrics/resource", 200),
        ("scraper", "GET", "/metrics/probes", 200),
        ("scraper", "GET", "/stats/summary", 200),
        ("scraper", "GET", "/pods", 403),
        ("scraper", "GET", "/configz", 403),
        ("scraper", "GET", "/logs/", 403),
        ("scraper", "GET", "/statusz", 403),
        ("reader", "GET", "/runningpods/", 200),
        ("reader", "GET", "/configz", 200),
        ("reader", "GET", "/healthz", 200),
        ("reader", "GET", "/containerLogs/default/shell/main", 200),
        ("reader", "GET", "/metrics", 403),
        ("reader", "GET", "/stats/summary", 403),
        ("reader", "GET", "/flagz", 403),
        // Leave to read is none to execute.
        ("reader", "POST", exec, 403),
        ("reader", "POST", "/run/default/shell/main?cmd=true", 403),
        ("reader", "POST", "/portForward/default/shell", 403),
        ("reader", "POST", "/checkpoint/default/shell/main", 403),
        (
            "kube-apiserver-kubelet-client",
            "POST",
            "/run/default/shell/main?cmd=true",
            200,
        ),
        (API_SERVER, "GET", "/logs/", 200),
    ] {
        let (code, body) = cluster.curl(Some(user), method, path)?;
        ensure!(code == expected, "{user}: {method} {path}: {code} {body}");
    }
    Ok(())
}

fn container(name: &str, command: &[&str]) -> Value {
    json!({ "name": name, "image": "busybox:1.36", "command": command })
}

fn pod(name: &str, containers: &[Value], more: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "nodeName": NODE_NAME,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": containers,
        },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn shell() -> Value {
    let idle = "trap 'exit 0' TERM; sleep 100000 & wait";
    let mut main = container("main", &["sh", "-c", idle]);
    main["readinessProbe"] = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
    let mut reader = container(
        "reader",
        &["sh", "-c", "while read line; do echo heard $line; done"],
    );
    reader["stdin"] = json!(true);
    let web = container("web", &["httpd", "-f", "-h", "/www", "-p", "8080"]);
    pod("shell", &[main, reader, web], &json!({}))
}

fn crash() -> Value {
    let script = "echo I am $(cat /proc/sys/kernel/random/uuid); \
        n=0; while [ $n -lt 100 ]; do n=$((n + 1)); echo line $n; done; \
        test -e /kept/crashed || { touch /kept/crashed; exit 1; }; \
        trap 'exit 0' TERM; sleep 100000 & wait";
    let mut main = container("main", &["sh", "-c", script]);
    main["volumeMounts"] = json!([{ "name": "kept", "mountPath": "/kept" }]);
    let kept = json!({ "volumes": [{ "name": "kept", "emptyDir": {} }] });
    pod("crash", &[main], &kept)
}

/// Ends by itself, after it has been followed for a while or before.
fn counter() -> Value {
    let script = "n=0; while [ $n -lt 200 ]; do n=$((n + 1)); echo line $n; sleep 0.1; done";
    let never = json!({ "restartPolicy": "Never" });
    pod(
        "counter",
        &[container("main", &["sh", "-c", script])],
        &never,
    )
}
