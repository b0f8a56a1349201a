//! `kubelet join` and `kubelet leave`, the binary itself, against the double of the API server; every way to fail with its
//! exit status, and nothing left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::agent::NODE_NAME;
use tests::apiserver::{Fault, bootstrap_secret, cluster_info};
use tests::cluster::{Authority, IGNORED, PATIENCE, Running, Site, TOKEN, bound_pod, path};
use tests::in_process::with_node;
use tests::wait::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

/// How often a join is killed.
const STEPS: u32 = 12;
const STATIC: &str = "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: s}, \
    spec: {containers: [{name: main, image: 'busybox:1'}]}}";

fn mode(file: &Path) -> Result<u32> {
    let metadata = fs::metadata(file).with_context(|| file.display().to_string())?;
    Ok(metadata.permissions().mode() & 0o7777)
}

#[test]
fn a_node_of_its_own_joins_runs_a_pod_and_leaves_and_its_static_pod_runs_on() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        node.put("s.yaml", STATIC)?;
        site.start_agent(false)?;
        node.ready("s").await?;
        let instance = site.instance("default/s-node/main")?;
        node.kill_agent()?;
        let before = site.traces()?;

        let joined = site.join(TOKEN, &site.cluster.pin()?, &[])?.ended().await?;
        ensure!(joined.code == Some(0), "{joined:?}");
        ensure!(
            joined.text.contains("kubelet --bootstrap-kubeconfig="),
            "{joined:?}"
        );
        ensure!(!joined.text.contains("0123456789abcdef"), "{joined:?}");
        let ca = fs::read_to_string(site.path("etc/kubernetes/pki/ca.crt"))?;
        ensure!(ca == site.cluster.authority.certificate(), "{ca}");
        let bootstrap = site.path("etc/kubernetes/bootstrap-kubelet.conf");
        ensure!(mode(&bootstrap)? == 0o600, "{:o}", mode(&bootstrap)?);
        ensure!(mode(&site.path("var/lib/kubelet/join.json"))? == 0o600);
        let config = fs::read_to_string(site.path("var/lib/kubelet/config.yaml"))?;
        let manifests = node.path("manifests").display().to_string();
        for own in [
            "10.96.0.10",
            "maxPods: 33",
            &manifests,
            node.runtime.endpoint(),
        ] {
            ensure!(config.contains(own), "no {own} in\n{config}");
        }

        site.start_agent(true)?;
        site.cluster.sign(&site.request().await?).await?;
        site.cluster.node_condition("Ready", "True").await?;
        node.ready("s").await?;
        ensure!(
            site.instance("default/s-node/main")? == instance,
            "the static pod was started anew"
        );
        site.cluster.add(&bound_pod("a")).await?;
        let pod = site.cluster.ready("a").await?;
        site.cluster.delete_pod("a", None).await?;
        site.cluster.gone(node, &pod).await?;
        node.kill_agent()?;

        let left = site.run(&["leave".to_owned()])?.ended().await?;
        ensure!(left.code == Some(0), "{left:?}");
        ensure!(left.text.contains("kubectl delete node"), "{left:?}");
        ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());
        site.start_agent(false)?;
        node.ready("s").await?;
        ensure!(
            site.instance("default/s-node/main")? == instance,
            "the static pod was started anew"
        );
        let again = site.run(&["leave".to_owned()])?.ended().await?;
        ensure!(
            again.code == Some(1) && again.text.contains("has not joined"),
            "{again:?}"
        );
        Ok(())
    });
}

#[test]
fn in_the_foreground_a_denied_request_is_undone_and_a_second_join_succeeds() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let before = site.traces()?;
        let running = site.join(
            TOKEN,
            &site.cluster.pin()?,
            &["--foreground", "--timeout=100s"],
        )?;
        site.cluster.deny(&site.request().await?).await?;
        let denied = running.ended().await?;
        ensure!(denied.code == Some(21), "{denied:?}");
        ensure!(
            denied.text.contains("was denied: Denied: Unwanted"),
            "{denied:?}"
        );
        ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());

        let running = site.join(
            TOKEN,
            &site.cluster.pin()?,
            &["--foreground", "--timeout=100s"],
        )?;
        // The agent that was denied may have asked once more before it ended.
        eventually("the node joins", PATIENCE, async || {
            for request in site.cluster.undecided().await? {
                site.cluster.sign(&request).await?;
            }
            let said = running.text();
            ensure!(said.contains("This node has joined the cluster"), "{said}");
            Ok(())
        })
        .await?;
        ensure!(!site.path("etc/kubernetes/bootstrap-kubelet.conf").exists());
        site.cluster.node_condition("Ready", "True").await?;
        kill(
            Pid::from_raw(i32::try_from(running.child.id())?),
            Signal::SIGTERM,
        )?;
        let ended = running.ended().await?;
        ensure!(ended.code == Some(0), "{ended:?}");
        ensure!(site.path("etc/kubernetes/kubelet.conf").exists());

        let again = site.join(TOKEN, &site.cluster.pin()?, &[])?.ended().await?;
        ensure!(again.code == Some(2), "{again:?}");
        ensure!(
            again
                .text
                .contains("[ERROR FileAvailable--etc-kubernetes-kubelet.conf]"),
            "{again:?}"
        );
        let left = site.run(&["leave".to_owned()])?.ended().await?;
        ensure!(left.code == Some(0), "{left:?}");
        ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());
        Ok(())
    });
}

#[test]
fn a_request_that_nobody_approves_is_named_and_everything_undone() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let before = site.traces()?;
        // Long enough for the agent to ask on a busy machine.
        let running = site.join(
            TOKEN,
            &site.cluster.pin()?,
            &["--foreground", "--timeout=30s"],
        )?;
        let name = site.request().await?["metadata"]["name"].clone();
        let ended = running.ended().await?;
        ensure!(ended.code == Some(22), "{ended:?}");
        let remedy = format!(
            "kubectl certificate approve {}",
            name.as_str().unwrap_or_default()
        );
        ensure!(ended.text.contains(&remedy), "{ended:?}");
        ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());
        Ok(())
    });
}

#[test]
fn what_cannot_be_believed_or_reached_is_refused_each_in_its_own_words() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let (pin, before) = (site.cluster.pin()?, site.files()?);
        let refused = async |running: Running, code: i32, words: &str| {
            let ended = running.ended().await?;
            ensure!(ended.code == Some(code), "{code} expected: {ended:?}");
            ensure!(ended.text.contains(words), "{words:?} expected: {ended:?}");
            ensure!(site.files()? == before, "{:#?}", site.files()?.keys());
            anyhow::Ok(())
        };
        let soon = ["--timeout=3s"];
        refused(site.join("abc.def", &pin, &[])?, 64, "is not of the form").await?;
        refused(
            site.join(TOKEN, "sha256:12", &[])?,
            64,
            "64 hexadecimal digits",
        )
        .await?;
        let wrong = format!("sha256:{}", "0".repeat(64));
        refused(site.join(TOKEN, &wrong, &[])?, 16, &pin).await?;
        let secret = "abcdef.fedcba9876543210";
        refused(
            site.join(secret, &pin, &[])?,
            15,
            "failed to verify the JWS signature",
        )
        .await?;
        let unknown = "ghijkl.0123456789abcdef";
        refused(
            site.join(unknown, &pin, &soon)?,
            14,
            "invalid for this cluster or it has expired",
        )
        .await?;
        let nowhere = site.join_at("127.0.0.1:1", TOKEN, &pin, &soon)?;
        refused(nowhere, 10, "cannot be reached").await?;

        site.cluster
            .inform(&[], &site.cluster.authority.certificate())
            .await?;
        refused(
            site.join(TOKEN, &pin, &soon)?,
            13,
            "is not signed for any token",
        )
        .await?;
        let other = Authority::new()?.certificate();
        site.cluster.inform(&[TOKEN], &other).await?;
        let of_other = tests::cluster::pin(&other)?;
        refused(
            site.join(TOKEN, &of_other, &[])?,
            17,
            "cannot be verified with the CA",
        )
        .await?;
        site.cluster
            .inform(&[TOKEN], &site.cluster.authority.certificate())
            .await?;

        let mut expired = bootstrap_secret("expire.0123456789abcdef");
        expired["stringData"]["expiration"] = json!("2020-01-01T00:00:00Z");
        site.cluster.put("secrets", "kube-system", &expired).await?;
        let bootstrap = ["--tls-bootstrap-token=expire.0123456789abcdef"];
        refused(
            site.join(TOKEN, &pin, &bootstrap)?,
            19,
            "the token has expired",
        )
        .await?;

        let other = json!({ "metadata": { "name": NODE_NAME } });
        site.cluster.put("nodes", "", &other).await?;
        let status = json!({ "status": {
            "nodeInfo": { "machineID": "another", "systemUUID": "another" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        let place = format!("{}/status", path("nodes", "", NODE_NAME));
        site.cluster.client().merge(&place, &status).await?;
        refused(
            site.join(TOKEN, &pin, &[])?,
            20,
            "already exists in the cluster",
        )
        .await
    });
}

#[test]
fn a_server_whose_certificate_is_of_another_time_is_a_matter_of_clocks() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let before = site.files()?;
        let pair = site.cluster.authority.server_later(&["127.0.0.1"])?;
        let mut tls = site.cluster.authority.server_tls(&pair)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let authority = site.cluster.authority.certificate();
        let info = cluster_info("https://127.0.0.1:1", &authority, &[TOKEN]).to_string();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?.to_string();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut head = [0; 4096];
                // One request comes in one piece, and one answer goes.
                let _ = stream.read(&mut head).await;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nDate: Wed, 01 Jan 2098 00:00:00 GMT\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n{info}",
                    info.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        let ended = site
            .join_at(&at, TOKEN, &site.cluster.pin()?, &[])?
            .ended()
            .await?;
        serving.abort();
        ensure!(ended.code == Some(18), "{ended:?}");
        ensure!(
            ended
                .text
                .contains("the API server's clock says 2098-01-01T00:00:0"),
            "{ended:?}"
        );
        ensure!(site.files()? == before, "{:#?}", site.files()?.keys());
        Ok(())
    });
}

#[test]
fn a_file_may_say_which_cluster_it_is() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let before = site.traces()?;
        let own = site.cluster.authority.certificate();
        let at = site.cluster.line.address();
        let file = |server: &str, authority: &str, user: &Value| {
            let path = node.path("discovery.yaml");
            let text = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{ "name": "k", "cluster": {
                    "server": server, "certificate-authority-data": STANDARD.encode(authority),
                } }],
                "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
                "users": [{ "name": "u", "user": user }],
            });
            fs::write(&path, text.to_string())?;
            anyhow::Ok(path.display().to_string())
        };
        let join = async |file: &str, more: &[&str]| {
            let own = [
                "join",
                "--discovery-file",
                file,
                "--node-name",
                NODE_NAME,
                IGNORED,
                "--timeout=3s",
            ];
            let all: Vec<String> = own
                .iter()
                .chain(more)
                .map(|&word| word.to_owned())
                .collect();
            site.run(&all)?.ended().await
        };
        let joins = async |file: &str, more: &[&str], words: &str| {
            let joined = join(file, more).await?;
            ensure!(
                joined.code == Some(0) && joined.text.contains(words),
                "{joined:?}"
            );
            let bootstrap = fs::read_to_string(site.path("etc/kubernetes/bootstrap-kubelet.conf"))?;
            ensure!(bootstrap.contains(TOKEN), "{bootstrap}");
            let left = site.run(&["leave".to_owned()])?.ended().await?;
            ensure!(left.code == Some(0) && site.traces()? == before, "{left:?}");
            anyhow::Ok(())
        };
        let refused = async |file: &str, more: &[&str], code: i32, words: &str| {
            let refused = join(file, more).await?;
            ensure!(
                refused.code == Some(code) && refused.text.contains(words),
                "{refused:?}"
            );
            ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());
            anyhow::Ok(())
        };

        let url = format!("https://{at}");
        let (with_token, nobody) = (json!({ "token": TOKEN }), json!({}));
        joins(
            &file(&url, &own, &with_token)?,
            &[],
            "Reading the cluster from",
        )
        .await?;
        let another_name = format!("https://localhost:{}", at.port());
        let bootstrap = ["--tls-bootstrap-token", TOKEN];
        let words = "is not the one of the cluster-info ConfigMap";
        joins(&file(&another_name, &own, &nobody)?, &bootstrap, words).await?;

        let silent = file(&url, &own, &nobody)?;
        refused(&silent, &[], 64, "give --tls-bootstrap-token").await?;
        let stranger = file(&url, &Authority::new()?.certificate(), &nobody)?;
        refused(&stranger, &bootstrap, 17, "cannot be verified with the CA").await?;
        let nowhere = file("https://127.0.0.1:1", &own, &nobody)?;
        refused(&nowhere, &bootstrap, 10, "cannot be reached").await?;
        fs::write(node.path("discovery.yaml"), "clusters: 7")?;
        let broken = node.path("discovery.yaml").display().to_string();
        refused(&broken, &bootstrap, 64, "cannot be used").await
    });
}

#[test]
fn an_agent_that_cannot_ask_and_a_node_that_is_not_ready_are_told_apart() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let before = site.traces()?;
        let double = site.cluster.double().context("a double")?;
        let requests = path("certificatesigningrequests", "", "");
        double.fault(Fault::on("create", &requests).answers(500, "InternalError", "not today"));
        let running = site.join(
            TOKEN,
            &site.cluster.pin()?,
            &["--foreground", "--timeout=20s"],
        )?;
        let ended = running.ended().await?;
        ensure!(ended.code == Some(23), "{ended:?}");
        ensure!(
            ended.text.contains("has not asked for a certificate"),
            "{ended:?}"
        );
        ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());

        double.clear_faults();
        node.runtime.set_ready(true, false);
        let running = site.join(
            TOKEN,
            &site.cluster.pin()?,
            &["--foreground", "--timeout=20s"],
        )?;
        eventually("it has joined, and is not Ready", PATIENCE, async || {
            for request in site.cluster.undecided().await? {
                site.cluster.sign(&request).await?;
            }
            let said = running.text();
            ensure!(said.contains("is not Ready after 20 s"), "{said}");
            Ok(())
        })
        .await?;
        // The agent goes on, and with it what the node lacks may come.
        node.runtime.set_ready(true, true);
        site.cluster.node_condition("Ready", "True").await?;
        ensure!(site.path("etc/kubernetes/kubelet.conf").exists());
        Ok(())
    });
}

#[test]
fn a_join_that_is_killed_at_any_moment_can_be_run_again_and_undone() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let (before, pin) = (site.traces()?, site.cluster.pin()?);
        // How long a whole one takes here, in steps that fall before, between and behind its writes.
        let began = Instant::now();
        let whole = site.join(TOKEN, &pin, &[])?.ended().await?;
        let took = began.elapsed();
        ensure!(whole.code == Some(0), "{whole:?}");
        let left = site.run(&["leave".to_owned()])?.ended().await?;
        ensure!(left.code == Some(0) && site.traces()? == before, "{left:?}");
        let mut half_done = 0;
        for part in 1..=STEPS {
            let running = site.join(TOKEN, &pin, &[])?;
            sleep(took * part / STEPS).await;
            // SIGKILL.
            drop(running);
            half_done += usize::from(site.traces()? != before);
        }
        println!("{half_done} of {STEPS} left something behind");
        let again = site.join(TOKEN, &pin, &[])?.ended().await?;
        ensure!(again.code == Some(0), "{again:?}");
        let left = site.run(&["leave".to_owned()])?.ended().await?;
        ensure!(left.code == Some(0), "{left:?}");
        ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());
        Ok(())
    });
}
