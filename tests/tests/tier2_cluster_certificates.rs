//! Certificates of a short life, as a client of the API server and of the node's API: renewed while watches go on, requests
//! are made and connections are opened, and nobody notices. `CERTIFICATE_LIFE_SECONDS=120` gives them two minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tests::agent::NODE_NAME;
use tests::apiserver::{ApiServer, Request};
use tests::cluster::{Client, Cluster, LIMIT, SERVING_SIGNER, bound_pod, with_double};
use tests::in_process::FakeNode;
use tests::prometheus;
use tests::wait::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// How long a certificate lives, in seconds, where the variable does not say.
const LIFE: u64 = 16;
/// The least time that a watch lasts, in seconds.
const WATCH: u64 = 200;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

fn life() -> Duration {
    let said = std::env::var("CERTIFICATE_LIFE_SECONDS").ok();
    let said = said.and_then(|text| text.parse().ok());
    Duration::from_secs(said.unwrap_or(LIFE))
}

/// Has the node's API served with a certificate of the cluster's, to everybody.
fn serve(node: &FakeNode) -> Result<SocketAddr> {
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    node.configure("enableServer", json!(true));
    node.configure("address", json!("127.0.0.1"));
    node.configure("port", json!(address.port()));
    node.configure("serverTLSBootstrap", json!(true));
    node.configure(
        "authentication",
        json!({ "anonymous": { "enabled": true }, "webhook": { "enabled": false } }),
    );
    node.configure("authorization", json!({ "mode": "AlwaysAllow" }));
    Ok(address)
}

/// A connection to the node's API by a client that believes the cluster's authority, and the certificate it was shown.
async fn connect(cluster: &Cluster, to: SocketAddr) -> Result<(TlsStream<TcpStream>, Vec<u8>)> {
    let tls = TlsConnector::from(Arc::new(cluster.authority.client_tls(None)?));
    let stream = TcpStream::connect(to).await?;
    let stream = tls
        .connect(ServerName::try_from(NODE_NAME)?, stream)
        .await?;
    let shown = stream.get_ref().1.peer_certificates();
    let shown = shown
        .and_then(|chain| chain.first())
        .context("a certificate")?;
    let shown = shown.to_vec();
    Ok((stream, shown))
}

/// One request over a connection that stays open.
async fn healthz(stream: &mut TlsStream<TcpStream>) -> Result<()> {
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
        .await?;
    let mut answer = vec![0; 4096];
    let read = timeout(LIMIT, stream.read(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    Ok(())
}

/// Approves and signs whatever is asked for.
async fn sign_all(cluster: &Cluster, life: Duration) -> Result<()> {
    loop {
        for request in cluster.undecided().await? {
            cluster.sign_for(&request, life).await?;
        }
        sleep(PAUSE / 2).await;
    }
}

#[test]
fn certificates_are_renewed_and_nobody_notices() {
    with_double(async |cluster, double, node| {
        let address = serve(node)?;
        node.configure("rotateCertificates", json!(true));
        node.start_agent()?;
        let began = Instant::now();
        let life = life();
        // Cancel-safe: the signer's part is over with the test.
        tokio::select! {
            failed = sign_all(cluster, life) => failed,
            done = look_on(cluster, node, address, life) => done,
        }?;
        judge(double, began.elapsed())?;
        let log = node.log();
        for word in [
            "it is tried again until it works",
            "cannot renew",
            "cannot have",
        ] {
            ensure!(!log.contains(word), "the log has {word:?}");
        }
        Ok(())
    });
}

/// Uses the node for two and a half lives of its certificates, as a cluster does.
async fn look_on(
    cluster: &Cluster,
    node: &FakeNode,
    address: SocketAddr,
    life: Duration,
) -> Result<()> {
    cluster.node_condition("Ready", "True").await?;
    let (mut kept, first) = eventually("the node's API answers", LIMIT, async || {
        connect(cluster, address).await
    })
    .await?;
    let mut shown = BTreeSet::from([first]);
    let end = Instant::now() + life * 5 / 2;
    let (mut pods, mut next) = (0, Instant::now());
    while Instant::now() < end {
        shown.insert(connect(cluster, address).await?.1);
        healthz(&mut kept).await?;
        if Instant::now() >= next {
            // The watch of pods tells of each, and the publisher's requests get through.
            let name = format!("p{pods}");
            cluster.add(&bound_pod(&name)).await?;
            cluster.ready(&name).await?;
            if pods > 0 {
                cluster
                    .delete_pod(&format!("p{}", pods - 1), Some(0))
                    .await?;
            }
            pods += 1;
            next = Instant::now() + life / 8;
        }
        cluster.node_condition("Ready", "True").await?;
        sleep(PAUSE).await;
    }
    ensure!(pods >= 10, "{pods} pods");
    ensure!(shown.len() >= 3, "{} serving certificates", shown.len());
    let last = format!("default/p{}/main", pods - 1);
    ensure!(node.runtime.running(&last).len() == 1, "{last}");

    let client = Client::of_node(address, NODE_NAME, cluster.authority.client_tls(None)?)?;
    let told = client
        .request("GET", "/metrics", "text/plain", None)
        .await?;
    let told =
        prometheus::parse(told["message"].as_str().context("text")?).map_err(anyhow::Error::msg)?;
    for kind in ["client", "server"] {
        let name = format!("kubelet_certificate_manager_{kind}_ttl_seconds");
        let ttl = told.value(&name, &[]).context(name)?;
        ensure!((0.0..=life.as_secs_f64()).contains(&ttl), "{kind} {ttl}");
    }
    let rotated = "kubelet_certificate_manager_server_rotation_seconds_count";
    let rotated = told.value(rotated, &[]);
    ensure!(rotated.is_some_and(|count| count >= 2.0), "{rotated:?}");
    Ok(())
}

/// What the server saw: no request that was refused or given up, no watch that was opened anew before its time, and each
/// certificate in use until the next one was there.
fn judge(double: &ApiServer, took: Duration) -> Result<()> {
    let all = double.requests();
    let own = |request: &&Request| request.agent.starts_with("kubelet/");
    let own: Vec<&Request> = all.iter().filter(own).collect();
    // What was asked last may not have its answer yet.
    let settled = Timestamp::now() - Duration::from_secs(2);
    for request in own.iter().filter(|request| request.at < settled) {
        let good = match request.code {
            // What a pod may refer to, and does not have to be there.
            Some(code) => (200..300).contains(&code) || code == 404,
            None => request.verb == "watch",
        };
        ensure!(good, "{request:?}");
    }
    let mut watches: BTreeMap<(&str, Vec<&str>), u64> = BTreeMap::new();
    for request in own.iter().filter(|request| request.verb == "watch") {
        let selects = request
            .query
            .split('&')
            .filter(|part| part.contains("Selector="));
        *watches
            .entry((request.path.as_str(), selects.collect()))
            .or_default() += 1;
    }
    ensure!(watches.len() >= 3, "{watches:?}");
    let most = 1 + took.as_secs() / WATCH;
    let often = watches.iter().find(|(_, count)| **count > most);
    ensure!(often.is_none(), "opened too often: {often:?}");

    let mut uses: Vec<(&str, Timestamp, Timestamp)> = Vec::new();
    for request in &own {
        match uses
            .iter_mut()
            .find(|(serial, ..)| *serial == request.serial)
        {
            Some((_, _, last)) => *last = request.at,
            None => uses.push((request.serial.as_str(), request.at, request.at)),
        }
    }
    ensure!(uses.len() >= 4, "certificates of the client: {uses:?}");
    for pair in uses.windows(2) {
        // What had begun to be asked.
        let late = pair[0].2.duration_since(pair[1].1);
        ensure!(late.as_secs_f64() < 2.0, "{pair:?}");
    }
    Ok(())
}

#[test]
fn without_a_serving_certificate_connections_are_refused_in_upstreams_words_until_there_is_one() {
    with_double(async |cluster, _, node| {
        let address = serve(node)?;
        node.start_agent()?;
        let asked = async || {
            eventually("a request for a serving certificate", LIMIT, async || {
                let mut undecided = cluster.undecided().await?;
                undecided.retain(|one| one["spec"]["signerName"] == SERVING_SIGNER);
                undecided.pop().context("none")
            })
            .await
        };
        let request: Value = asked().await?;
        let name = request["metadata"]["name"].as_str().context("a name")?;
        let refused = async || {
            let error = connect(cluster, address).await.err().context("connected")?;
            let said = format!("{error:#}");
            ensure!(said.contains("InternalError"), "{said}");
            anyhow::Ok(())
        };
        refused().await?;
        let waits = format!("the certificate signing request {name} waits for its approval");
        ensure!(node.log().contains(&waits), "{waits}");
        cluster.node_condition("Ready", "True").await?;

        cluster.deny(&request).await?;
        let denied = format!(
            "cannot have a serving certificate: the certificate signing request {name} is Denied: Unwanted"
        );
        eventually("the denial in the log", LIMIT, async || {
            ensure!(node.log().contains(&denied), "{denied}");
            Ok(())
        })
        .await?;
        refused().await?;

        cluster.sign(&asked().await?).await?;
        let (mut stream, _) = eventually("the node's API answers", LIMIT, async || {
            connect(cluster, address).await
        })
        .await?;
        healthz(&mut stream).await?;
        let pair = node.path("pki").join("kubelet-server-current.pem");
        ensure!(std::fs::read_link(&pair).is_ok(), "{}", pair.display());
        // The next agent serves with it at once, and asks for nothing.
        node.kill_agent()?;
        node.start_agent()?;
        eventually("the node's API answers", LIMIT, async || {
            connect(cluster, address).await.map(drop)
        })
        .await?;
        cluster.node_condition("Ready", "True").await?;
        ensure!(cluster.undecided().await?.is_empty());
        Ok(())
    });
}
