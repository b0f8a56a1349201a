//! Real containers: what the containers of a pod, and the node, reach over the network.

use std::time::Duration;

use anyhow::ensure;
use tests::agent::{CLUSTER_DNS, PodView as _};
use tests::containerd::NODE_IP;
use tests::images::INDEX_HTML;
use tests::scenario::with_agent;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);

/// What the server of `examples/web.yaml` answers.
const GREETING: &str = "hello from the first version";

#[test]
fn two_containers_of_a_pod_meet_on_localhost() {
    with_agent(async |node, agent| {
        node.put("web.yaml", include_str!("../../examples/web.yaml"))?;
        let pod = agent.ready("web", LIMIT).await?;
        // The sidecar reached the server's 127.0.0.1, which the node's own network does not have.
        let log = agent.logged(&pod, "watcher", GREETING, LIMIT).await?;
        assert!(log.contains("127.0.0.1 says: "), "{log}");
        assert!(node.http_get("127.0.0.1:80", "/").is_err());
        // And both are one address for the node.
        let answer = node.http_get(&format!("{}:80", pod.ip()), "/")?;
        assert_eq!((answer.status, answer.body.trim_end()), (200, GREETING));
        Ok(())
    });
}

#[test]
fn a_host_port_leads_to_its_pod_while_the_pod_lives() {
    with_agent(async |node, agent| {
        node.put("port.yaml", PORT)?;
        let pod = agent.ready("port", LIMIT).await?;
        let answer = node.http_get("127.0.0.1:8080", "/")?;
        assert_eq!((answer.status, &*answer.body), (200, INDEX_HTML));
        node.remove("port.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        eventually("the host port is closed", LIMIT, async || {
            ensure!(node.http_get("127.0.0.1:8080", "/").is_err(), "it answers");
            Ok(())
        })
        .await
    });
}

const PORT: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: port
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: busybox:1.36
    command: [httpd, -f, -p, "80", -h, /www]
    ports:
    - containerPort: 80
      hostPort: 8080
"#;

#[test]
fn a_pod_of_the_host_network_is_on_the_node() {
    with_agent(async |node, agent| {
        node.put("host.yaml", HOST)?;
        let pod = agent.ready("host", LIMIT).await?;
        let answer = node.http_get("127.0.0.1:8081", "/")?;
        assert_eq!(answer.body, INDEX_HTML);
        // Upstream leaves it empty until the node has joined a cluster.
        assert!(["", NODE_IP].contains(&pod.ip()), "{}", pod.ip());
        let hosts = agent.logged(&pod, "show", "end of hosts", LIMIT).await?;
        assert!(
            hosts.starts_with("# Kubernetes-managed hosts file (host network).\n"),
            "{hosts}"
        );
        Ok(())
    });
}

const HOST: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: host
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: busybox:1.36
    command: [httpd, -f, -p, "8081", -h, /www]
  - name: show
    image: busybox:1.36
    command: [sh, -c, "cat /etc/hosts; echo end of hosts; exec sleep 100000"]
"#;

#[test]
fn names_and_addresses_inside_are_what_kubernetes_promises() {
    with_agent(async |node, agent| {
        node.put("names.yaml", NAMES)?;
        node.put("plain-dns.yaml", PLAIN_DNS)?;
        let pod = agent.ready("names", LIMIT).await?;
        let log = agent.logged(&pod, "show", "THE END", LIMIT).await?;
        let ip = pod.ip();
        ensure!(log.starts_with("hostname names-node\n"), "{log}");
        for line in [
            "# Kubernetes-managed hosts file.".to_owned(),
            "127.0.0.1\tlocalhost".to_owned(),
            format!("{ip}\tnames-node"),
            "# Entries added by HostAliases.".to_owned(),
            "192.0.2.77\tfirst.test\tsecond.test".to_owned(),
            format!("nameserver {CLUSTER_DNS}"),
            "search default.svc.cluster.local svc.cluster.local cluster.local example.test"
                .to_owned(),
        ] {
            ensure!(
                log.lines().any(|l| l == line),
                "no line {line:?} in:\n{log}"
            );
        }
        let options = log.lines().find(|line| line.starts_with("options "));
        ensure!(
            options.is_some_and(|line| line.split(' ').any(|word| word == "ndots:5")),
            "{log}"
        );

        let pod = agent.ready("plain-dns", LIMIT).await?;
        let log = agent.logged(&pod, "show", "THE END", LIMIT).await?;
        for line in ["nameserver 192.0.2.53", "search example.test"] {
            ensure!(
                log.lines().any(|l| l == line),
                "no line {line:?} in:\n{log}"
            );
        }
        ensure!(
            !log.contains(CLUSTER_DNS) && !log.contains("ndots"),
            "{log}"
        );
        Ok(())
    });
}

const NAMES: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: names
spec:
  terminationGracePeriodSeconds: 1
  hostAliases:
  - ip: 192.0.2.77
    hostnames: [first.test, second.test]
  containers:
  - name: show
    image: busybox:1.36
    command:
    - sh
    - -c
    - echo hostname $(hostname); cat /etc/hosts /etc/resolv.conf; echo THE END; exec sleep 100000
"#;

const PLAIN_DNS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: plain-dns
spec:
  dnsPolicy: Default
  terminationGracePeriodSeconds: 1
  containers:
  - name: show
    image: busybox:1.36
    command: [sh, -c, "cat /etc/resolv.conf; echo THE END; exec sleep 100000"]
"#;
