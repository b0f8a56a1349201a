//! A joined node on a fake runtime: sources of projected volumes that feature gates turn on. What signs is the test.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use tests::cluster::{Cluster, LIMIT, Requested, bound_pod, path, with_double};
use tests::in_process::FakeNode;
use tests::wait::eventually;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

const SIGNER: &str = "signer.test/pods";
/// The tests of this program are one process, which has one list of events and counts all certificates: each test has pods
/// of other names, and a signer of its own.
const REFUSING: &str = "signer.test/refusing";

fn pod(name: &str, sources: &Value) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["volumes"] = json!([{"name": "p", "projected": {"sources": sources}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "p", "mountPath": "/p"}]);
    pod
}

/// Where the volume of a pod that runs lies.
async fn volume(node: &FakeNode, pod: &str) -> Result<PathBuf> {
    eventually(&format!("{pod} runs"), LIMIT, async || {
        let running = node.runtime.running(&format!("default/{pod}/main"));
        let mut mounts = running.first().context("it does not")?.config.mounts.iter();
        let mount = mounts.find(|mount| mount.container_path == "/p");
        Ok(Path::new(&mount.context("no mount")?.host_path).to_owned())
    })
    .await
}

/// Whether the test may mount, which takes root; if so, the gates are on.
fn prepare(node: &FakeNode) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: this needs root");
    }
    node.configure(
        "featureGates",
        json!({"ClusterTrustBundle": true, "ClusterTrustBundleProjection": true, "PodCertificateRequest": true}),
    );
    is_root
}

#[test]
fn trust_bundles_of_a_signer_are_one_file_that_follows_them() {
    with_double(async |cluster, _, node| {
        if !prepare(node) {
            return Ok(());
        }
        node.start_agent()?;
        let authority = cluster.authority.certificate();
        let other = tests::cluster::Authority::new()?.certificate();
        let bundles = path("clustertrustbundles", "", "");
        let bundle = |name: &str, live: &str, text: &str| {
            json!({"metadata": {"name": format!("signer.test:pods:{name}"), "labels": {"live": live}},
                "spec": {"signerName": SIGNER, "trustBundle": text}})
        };
        let source = json!([{"clusterTrustBundle": {"signerName": SIGNER, "path": "ca",
            "labelSelector": {"matchLabels": {"live": "yes"}}}}]);
        cluster.add(&pod("trusting", &source)).await?;
        let event = cluster.event("trusting", "FailedMount").await?;
        let message = event.message.unwrap_or_default();
        ensure!(
            message.ends_with(
                " : combination of signerName and labelSelector matched zero ClusterTrustBundles"
            ),
            "{message}"
        );
        let first = bundle("one", "yes", &format!("# ours\n{authority}{authority}"));
        cluster.client().create(&bundles, &first).await?;
        let unwanted = bundle("old", "no", &other);
        cluster.client().create(&bundles, &unwanted).await?;
        let file = volume(node, "trusting").await?.join("ca");
        ensure!(std::fs::read_to_string(&file)? == authority);
        let two = bundle("two", "yes", &other);
        cluster.client().create(&bundles, &two).await?;
        eventually("both are there", LIMIT, async || {
            let text = std::fs::read_to_string(&file)?;
            let has = |certificate: &str| text.matches(certificate).count() == 1;
            ensure!(has(&authority) && has(&other), "{text}");
            Ok(())
        })
        .await
    });
}

/// The requests that nobody has answered.
async fn pending(cluster: &Cluster) -> Result<Vec<Value>> {
    let list = path("podcertificaterequests", "default", "");
    let list = cluster.client().get(&list).await?;
    let all = list["items"].as_array().cloned().unwrap_or_default();
    let open = |request: &Value| request["status"]["conditions"].as_array().is_none();
    Ok(all.into_iter().filter(open).collect())
}

async fn next(cluster: &Cluster) -> Result<Value> {
    eventually("the node asks for a certificate", LIMIT, async || {
        pending(cluster).await?.pop().context("it does not")
    })
    .await
}

/// Says what has become of a request.
async fn decide(cluster: &Cluster, request: &Value, kind: &str, more: Value) -> Result<()> {
    let name = request["metadata"]["name"].as_str().context("a name")?;
    let place = path("podcertificaterequests", "default", name);
    let mut decided = request.clone();
    decided["status"] = more;
    decided["status"]["conditions"] = json!([{"type": kind, "status": "True", "reason": "Test",
        "message": "by a test", "lastTransitionTime": Timestamp::now().to_string()}]);
    let status = format!("{place}/status");
    cluster.client().replace(&status, &decided).await.map(drop)
}

/// Signs a request; the certificate is to be renewed after `refresh`.
async fn issue(cluster: &Cluster, request: &Value, refresh: i64) -> Result<()> {
    let proof = request["spec"]["stubPKCS10Request"].as_str();
    let proof = STANDARD.encode(STANDARD.decode(proof.context("no proof")?)?);
    let lines: Vec<_> = proof
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    let text = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    );
    let requested = Requested::read(text.as_bytes())?;
    ensure!(requested.name.is_empty(), "{:?}", requested.name);
    let life = Duration::from_secs(60);
    let chain = cluster.authority.sign(requested, life)?;
    let now = Timestamp::now();
    let status = json!({
        "certificateChain": format!("of a test\n{chain}"),
        "notBefore": now.to_string(),
        "beginRefreshAt": (now + refresh.seconds()).to_string(),
        "notAfter": (now + 60.seconds()).to_string(),
    });
    decide(cluster, request, "Issued", status).await
}

/// The certificate in the volume, if it is the key's.
fn credential(volume: &Path) -> Result<Vec<u8>> {
    let both = std::fs::read(volume.join("both"))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&both).collect::<Result<_, _>>()?;
    let own = chain.first().context("no certificate")?.to_vec();
    let key = PrivateKeyDer::from_pem_slice(&both)?;
    CertifiedKey::from_der(chain, key, &ring::default_provider())?.keys_match()?;
    Ok(own)
}

/// Waits until the agent counts so many certificates of `signer` in each state.
async fn counted(node: &FakeNode, signer: &str, expected: &[(&str, u32)]) -> Result<()> {
    const NAME: &str = "kubelet_podcertificate_states";
    eventually(
        "certificates are counted by their state",
        LIMIT,
        async || {
            let told = node.metrics().await?;
            let own = told
                .samples(NAME)
                .filter(|s| s.label("signer_name") == signer);
            let states: Vec<_> = own
                .map(|s| (s.label("state").to_owned(), s.value))
                .collect();
            let expected = expected
                .iter()
                .map(|(state, n)| ((*state).to_owned(), f64::from(*n)));
            ensure!(states.iter().cloned().eq(expected), "{states:?}");
            Ok(())
        },
    )
    .await
}

#[test]
fn a_pod_has_a_certificate_of_its_own_that_is_renewed() {
    with_double(async |cluster, _, node| {
        if !prepare(node) {
            return Ok(());
        }
        let account = json!({"metadata": {"name": "runner"}});
        let account = cluster.add_object("serviceaccounts", &account).await?;
        node.with_socket("")?;
        node.start_agent()?;
        let source = json!([{"podCertificate": {"signerName": SIGNER, "keyType": "ED25519",
            "credentialBundlePath": "both", "maxExpirationSeconds": 3600,
            "userAnnotations": {"signer.test/kind": "web"}}}]);
        let mut wanting = pod("renewing", &source);
        wanting["spec"]["serviceAccountName"] = json!("runner");
        let made = cluster.add(&wanting).await?;
        let request = next(cluster).await?;
        let spec = &request["spec"];
        let expected = json!({
            "signerName": SIGNER, "podName": "renewing", "podUID": made.metadata.uid,
            "serviceAccountName": "runner", "serviceAccountUID": account["metadata"]["uid"],
            "maxExpirationSeconds": 3600,
            "unverifiedUserAnnotations": {"signer.test/kind": "web"},
        });
        for (field, value) in expected.as_object().context("an object")? {
            ensure!(spec[field] == *value, "{field}: {spec}");
        }
        counted(node, SIGNER, &[("not_yet_issued", 1)]).await?;
        issue(cluster, &request, 2).await?;
        let volume = volume(node, "renewing").await?;
        counted(node, SIGNER, &[("fresh", 1)]).await?;
        let first = credential(&volume)?;
        // Its time comes; with the next one there is another key, too.
        let request = next(cluster).await?;
        issue(cluster, &request, 3600).await?;
        eventually("the next one is there", LIMIT, async || {
            ensure!(credential(&volume)? != first);
            Ok(())
        })
        .await?;
        counted(node, SIGNER, &[("fresh", 1)]).await?;
        cluster.delete_pod("renewing", None).await?;
        counted(node, SIGNER, &[]).await
    });
}

#[test]
fn a_certificate_that_is_refused_keeps_its_pod_from_running_and_says_why() {
    with_double(async |cluster, _, node| {
        if !prepare(node) {
            return Ok(());
        }
        let account = json!({"metadata": {"name": "runner"}});
        cluster.add_object("serviceaccounts", &account).await?;
        node.with_socket("")?;
        node.start_agent()?;
        let source = json!([{"podCertificate": {"signerName": REFUSING, "keyType": "ECDSAP256",
            "keyPath": "key", "certificateChainPath": "chain"}}]);
        let mut wanting = pod("refused", &source);
        wanting["spec"]["serviceAccountName"] = json!("runner");
        cluster.add(&wanting).await?;
        let request = next(cluster).await?;
        let name = request["metadata"]["name"].as_str().context("a name")?;
        decide(cluster, &request, "Denied", json!({})).await?;
        let told = cluster.event("refused", "Denied").await?.message;
        let expected = format!(
            "PodCertificateRequest default/{name} was denied, reason=\"Test\", message=\"by a test\""
        );
        ensure!(told.as_deref() == Some(&*expected), "{told:?}");
        eventually("the volume says why", LIMIT, async || {
            let events = cluster.client().events("default").await?;
            let text = "PodCertificateRequest was permanently denied: reason=\"Test\" message=\"by a test\"";
            let mut messages = events.iter().filter_map(|event| event.message.as_deref());
            ensure!(messages.any(|message| message.ends_with(text)));
            Ok(())
        })
        .await?;
        counted(node, REFUSING, &[("denied", 1)]).await?;
        ensure!(pending(cluster).await?.is_empty(), "it is asked again");
        ensure!(node.runtime.running("default/refused/main").is_empty());
        Ok(())
    });
}
