//! Real containers: they are asked by command, HTTP, HTTPS, TCP and gRPC, and what they answer has its consequences in
//! the seconds that manifests state.

mod probed;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use probed::Probed;
use tests::agent::{Agent, PodView as _};
use tests::scenario::with_agent;
use tests::wait::{eventually, throughout};

const LIMIT: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// One test at a time: what is asked each second must not wait for the containers of another test.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_kind_of_probe_passes_and_fails() {
    let _alone = alone();
    with_agent(async |node, agent| {
        let probed = Probed::new(node)?;
        let probes = [
            ("exec", "exec: { command: [sh, -c, '! cat /state/bad'] }"),
            ("http", "httpGet: { path: '/x?y', port: web }"),
            (
                "https",
                "httpGet: { scheme: HTTPS, port: 8443, httpHeaders: [{ name: Host, value: probed.test }] }",
            ),
            ("redirect", "httpGet: { path: /away, port: 8080 }"),
            ("tcp", "tcpSocket: { port: 9000 }"),
            ("grpc", "grpc: { port: 5000 }"),
            ("service", "grpc: { port: 5000, service: known }"),
        ];
        let mut containers = probed.server("server", "");
        for (name, probe) in probes {
            containers += &format!(
                "  - name: {name}\n    image: busybox:1.36\n    command: [sleep, '100000']\n    \
                 ports: [{{ name: web, containerPort: 8080, protocol: UDP }}]\n    \
                 volumeMounts: [{{ name: state, mountPath: /state }}]\n    \
                 readinessProbe: {{ {probe}, periodSeconds: 1, failureThreshold: 1 }}\n"
            );
        }
        node.put("all.yaml", &probed.pod("all", &containers))?;
        agent.ready("all", LIMIT).await?;
        for _ in 0..2 {
            probed.turn_bad()?;
            eventually("none but the server is ready", LIMIT, async || {
                let pod = agent.pod("all")?;
                for (name, _) in probes {
                    ensure!(!pod.container(name)?.ready, "{}", pod.describe());
                }
                ensure!(pod.container("server")?.ready && !is_ready(&pod)?);
                Ok(())
            })
            .await?;
            probed.turn_good()?;
            agent.ready("all", LIMIT).await?;
        }
        let pod = agent.pod("all")?;
        ensure!(
            pod.statuses().iter().all(|c| c.restart_count == 0),
            "{}",
            pod.describe()
        );
        if agent.is_foreign() {
            return Ok(());
        }
        let log = agent.log()?;
        for text in [
            "HTTP probe failed with statuscode: 503",
            "Readiness probe warning: Probe terminated redirects, Response body: end",
            &format!("dial tcp {}:9000: connect: connection refused", pod.ip()),
            "service unhealthy (responded with \\\"NOT_SERVING\\\")",
        ] {
            let plain = text.replace('\\', "");
            ensure!(
                log.contains(text) || log.contains(&plain),
                "no {text:?} in the log"
            );
        }
        Ok(())
    });
}

/// Upstream delays the first probes of every pod by a part of their period while it has not run for one; we do so only
/// for those that ran before.
async fn past_the_jitter(agent: &Agent<'_>) {
    if agent.is_foreign() {
        tokio::time::sleep(31 * SECOND).await;
    }
}

fn is_ready(pod: &Pod) -> Result<bool> {
    let mut conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.rfind(|c| c.type_ == "Ready");
    Ok(ready.context("no condition Ready")?.status == "True")
}

/// How long the last instance of a container ran, in seconds; it must have been ended once.
fn ran(container: &ContainerStatus) -> Result<f64> {
    ensure!(
        container.restart_count == 1,
        "{} restarts",
        container.restart_count
    );
    let last = container
        .last_state
        .as_ref()
        .and_then(|s| s.terminated.as_ref());
    let last = last.context("no last state")?;
    let begin = last.started_at.as_ref().context("no start")?;
    let end = last.finished_at.as_ref().context("no end")?;
    Ok(end.0.duration_since(begin.0).as_secs_f64())
}

/// Waits until `container` was ended once, and checks that it ran for `seconds`, give or take two.
async fn ran_for(agent: &Agent<'_>, pod: &str, container: &str, seconds: f64) -> Result<()> {
    let ran = eventually(&format!("{pod} is ended"), LIMIT * 2, async || {
        ran(agent.pod(pod)?.container(container)?)
    })
    .await?;
    ensure!(
        (ran - seconds).abs() <= 2.0,
        "{pod}: ran {ran} s, should {seconds} s"
    );
    Ok(())
}

#[test]
fn what_does_not_live_is_ended_in_time_and_given_its_probes_grace() {
    let _alone = alone();
    with_agent(async |node, agent| {
        node.put("dead.yaml", DEAD)?;
        // Three failures two seconds apart.
        ran_for(agent, "dead", "polite", 6.0).await?;
        // The same, and what its probe gives it to end by itself; not the pod's hour.
        ran_for(agent, "dead", "deaf", 9.0).await?;
        let pod = agent.pod("dead")?;
        ensure!(
            pod.container("well")?.restart_count == 0,
            "{}",
            pod.describe()
        );
        Ok(())
    });
}

const DEAD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: dead
spec:
  terminationGracePeriodSeconds: 3600
  containers:
  - name: polite
    image: busybox:1.36
    command: [sh, -c, "trap 'exit 0' TERM; sleep 100000 & wait"]
    livenessProbe:
      exec: { command: ["false"] }
      periodSeconds: 2
  - name: deaf
    image: busybox:1.36
    command: [sleep, "100000"]
    livenessProbe:
      exec: { command: ["false"] }
      periodSeconds: 2
      terminationGracePeriodSeconds: 3
  - name: well
    image: busybox:1.36
    command: [sh, -c, "trap 'exit 0' TERM; sleep 100000 & wait"]
    livenessProbe:
      exec: { command: ["true"] }
      periodSeconds: 1
      timeoutSeconds: 10
      failureThreshold: 1
"#;

#[test]
fn a_slow_starter_is_protected_and_then_watched() {
    let _alone = alone();
    with_agent(async |node, agent| {
        past_the_jitter(agent).await;
        node.put("slow.yaml", SLOW)?;
        node.put("never.yaml", NEVER)?;
        let running = |pod: &Pod| -> Result<ContainerStatus> {
            let status = pod.container("slow")?.clone();
            let state = status.state.clone().unwrap_or_default();
            ensure!(state.running.is_some(), "{}", pod.describe());
            Ok(status)
        };
        let status = eventually("it runs", LIMIT, async || running(&agent.pod("slow")?)).await?;
        ensure!(status.started == Some(false) && !status.ready);
        // The other one never starts: it is asked three times, two seconds apart.
        ran_for(agent, "never", "never", 6.0).await?;
        let pod = agent.ready("slow", LIMIT).await?;
        let status = running(&pod)?;
        // Its liveness probe alone would have ended it eight times.
        ensure!(
            status.restart_count == 0 && status.started == Some(true),
            "{}",
            pod.describe()
        );
        throughout("it lives on", 5 * SECOND, async || {
            ensure!(running(&agent.pod("slow")?)?.restart_count == 0);
            Ok(())
        })
        .await?;
        // It lives for 20 seconds, and is asked each second.
        ran_for(agent, "slow", "slow", 21.0).await
    });
}

const SLOW: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: slow
spec:
  terminationGracePeriodSeconds: 3600
  containers:
  - name: slow
    image: busybox:1.36
    command:
    - sh
    - -c
    - trap 'exit 0' TERM; rm -f /tmp/up; (sleep 8; touch /tmp/up; sleep 12; rm /tmp/up; sleep 100000) & wait
    startupProbe:
      exec: { command: [cat, /tmp/up] }
      periodSeconds: 1
      failureThreshold: 60
    readinessProbe:
      exec: { command: [cat, /tmp/up] }
      periodSeconds: 30
    livenessProbe:
      exec: { command: [cat, /tmp/up] }
      periodSeconds: 1
      timeoutSeconds: 10
      failureThreshold: 1
"#;

const NEVER: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: never
spec:
  terminationGracePeriodSeconds: 3600
  containers:
  - name: never
    image: busybox:1.36
    command: [sh, -c, "trap 'exit 0' TERM; sleep 100000 & wait"]
    startupProbe:
      exec: { command: ["false"] }
      periodSeconds: 2
    livenessProbe:
      exec: { command: ["true"] }
      periodSeconds: 1
"#;

#[test]
fn ready_does_not_flip_over_ten_restarts_of_the_agent() {
    let _alone = alone();
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            // Without an API server upstream has nobody to remember the condition for it.
            return Ok(());
        }
        node.put("steady.yaml", STEADY)?;
        let before = agent.ready("steady", LIMIT).await?;
        let since = ready_since(&before)?;
        // A record may be a second behind.
        tokio::time::sleep(2 * SECOND).await;
        for round in 0..10 {
            if round % 2 == 0 {
                agent.kill()?;
            } else {
                agent.terminate().await?;
            }
            agent.spawn()?;
            let mut seen = 0;
            let what = format!("it is ready in round {round}");
            throughout(&what, 3 * SECOND, async || {
                // Until it serves, and has read the manifest.
                let Ok(pod) = agent.pod("steady") else {
                    return Ok(());
                };
                seen += 1;
                ensure!(is_ready(&pod)?, "{}", pod.describe());
                ensure!(ready_since(&pod)? == since, "it flipped");
                Ok(())
            })
            .await?;
            ensure!(seen > 5, "it was shown {seen} times");
        }
        let after = agent.ready("steady", LIMIT).await?;
        ensure!(
            after.instances() == before.instances(),
            "{}",
            after.describe()
        );
        Ok(())
    });
}

fn ready_since(pod: &Pod) -> Result<String> {
    let mut conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.rfind(|c| c.type_ == "Ready");
    let since = ready.and_then(|c| c.last_transition_time.clone());
    Ok(since.context("no transition time")?.0.to_string())
}

const STEADY: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: steady
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: beside
    image: busybox:1.36
    restartPolicy: Always
    command: [sleep, "100000"]
    startupProbe: { exec: { command: ["true"] }, periodSeconds: 1 }
    readinessProbe: { exec: { command: ["true"] }, periodSeconds: 2 }
  containers:
  - name: main
    image: busybox:1.36
    command: [sleep, "100000"]
    startupProbe: { exec: { command: ["true"] }, periodSeconds: 1 }
    readinessProbe: { exec: { command: ["true"] }, periodSeconds: 5 }
    livenessProbe: { exec: { command: ["true"] }, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1 }
  - name: web
    image: busybox:1.36
    command: [httpd, -f, -p, "80", -h, /www]
    readinessProbe: { httpGet: { port: 80 }, periodSeconds: 1 }
"#;

/// Four manifests as they stand in many a tutorial, with our images.
#[test]
fn manifests_behave_in_the_seconds_that_they_state() {
    let _alone = alone();
    with_agent(async |node, agent| {
        past_the_jitter(agent).await;
        let probed = Probed::new(node)?;
        let server =
            |name: &str, probes: &str| probed.pod(name, &probed.server_for("web", 10, probes));
        node.put("http.yaml", &server("liveness-http", LIVENESS_HTTP))?;
        node.put("startup.yaml", &server("startup", STARTUP))?;
        node.put(
            "tcp.yaml",
            &probed.pod("goproxy", &probed.server("web", GOPROXY)),
        )?;
        node.put("exec.yaml", LIVENESS_EXEC)?;
        let ready = async |name: &str, container: &str| {
            eventually(&format!("{name} is ready"), LIMIT, async || {
                let pod = agent.pod(name)?;
                let status = pod.container(container)?;
                ensure!(status.ready, "{}", pod.describe());
                let running = status.state.as_ref().and_then(|s| s.running.clone());
                let since = running.and_then(|r| r.started_at).context("no start")?;
                let ready = k8s_openapi::jiff::Timestamp::from_nanosecond(
                    kubelet::clock::system_wall().as_nanosecond(),
                )?;
                Ok(ready.duration_since(since.0).as_secs_f64())
            })
            .await
        };
        // Readiness from the fifth second on.
        let took = ready("goproxy", "web").await?;
        if !agent.is_foreign() {
            ensure!((5.0..=7.5).contains(&took), "ready after {took} s");
        }
        // Healthy for ten seconds, asked from the third on each three: the third failure in a row ends it.
        ran_for(agent, "liveness-http", "web", 18.0).await?;
        // Asked for the first time after ten seconds; started then, and dead ten seconds later.
        ran_for(agent, "startup", "web", 20.0).await?;
        // The file is there for thirty seconds; the third failure, of one each five seconds, ends it. Then the grace.
        ran_for(agent, "liveness-exec", "liveness", 45.0 + 2.0).await?;
        let pod = agent.pod("goproxy")?;
        ensure!(
            pod.container("web")?.restart_count == 0,
            "{}",
            pod.describe()
        );
        if agent.is_foreign() {
            return Ok(());
        }
        let requests = requests(agent, &agent.pod("liveness-http")?, "http")?;
        let times: Vec<f64> = requests.iter().take(6).copied().collect();
        let expected = [3.0, 5.75, 8.75, 11.75, 14.75, 17.75];
        let close = times
            .iter()
            .zip(expected)
            .all(|(is, should)| (is - should).abs() < 1.0);
        ensure!(times.len() == 6 && close, "asked at {times:?}");
        Ok(())
    });
}

/// When the server's first instance was asked, in seconds after its start.
fn requests(agent: &Agent<'_>, pod: &Pod, kind: &str) -> Result<Vec<f64>> {
    let log = agent.container_log(pod, "web")?;
    let lines = log.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let at: f64 = words.next()?.parse().ok()?;
        (words.next()? == kind).then_some(at)
    });
    Ok(lines.collect())
}

const LIVENESS_HTTP: &str = "livenessProbe: { httpGet: { path: /healthz, port: 8080, httpHeaders: [{ name: Custom-Header, \
     value: Awesome }] }, initialDelaySeconds: 3, periodSeconds: 3 }";

const STARTUP: &str = "livenessProbe: { httpGet: { path: /healthz, port: liveness-port }, failureThreshold: 1, periodSeconds: 10 }\n    \
     startupProbe: { httpGet: { path: /healthz, port: liveness-port }, failureThreshold: 30, periodSeconds: 10 }\n    \
     ports: [{ name: liveness-port, containerPort: 8080 }]";

const GOPROXY: &str = "readinessProbe: { tcpSocket: { port: 8080 }, initialDelaySeconds: 5, periodSeconds: 10 }\n    \
     livenessProbe: { tcpSocket: { port: 8080 }, initialDelaySeconds: 15, periodSeconds: 20 }";

const LIVENESS_EXEC: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: liveness-exec
  labels: { test: liveness }
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: liveness
    image: busybox:1.36
    args:
    - /bin/sh
    - -c
    - touch /tmp/healthy; sleep 30; rm -f /tmp/healthy; sleep 600
    livenessProbe:
      exec:
        command:
        - cat
        - /tmp/healthy
      initialDelaySeconds: 5
      periodSeconds: 5
"#;

/// Where the node's own network is a pod's, the node is asked.
#[test]
fn a_pod_on_the_nodes_network_is_asked_there() {
    let _alone = alone();
    with_agent(async |node, agent| {
        let manifest = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: host\nspec:\n  hostNetwork: true\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n  - name: web\n    image: busybox:1.36\n    \
             command: [httpd, -f, -p, '18080', -h, /www]\n    \
             readinessProbe: { httpGet: { port: 18080 }, periodSeconds: 1 }\n    \
             livenessProbe: { tcpSocket: { host: 127.0.0.1, port: 18080 }, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1 }\n";
        node.put("host.yaml", manifest)?;
        agent.ready("host", LIMIT).await?;
        throughout("it lives on", 3 * SECOND, async || {
            ensure!(agent.pod("host")?.container("web")?.restart_count == 0);
            Ok(())
        })
        .await?;
        Ok(())
    });
}
