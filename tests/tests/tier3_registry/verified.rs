//! An image that is here is for those who could have pulled it, and credentials that a program knows.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::registry::{HOST, PASSWORD, Registry, USER, pull_secret};
use tests::scenario::with_node;
use tests::wait::eventually;

use super::{AFTER_BACKOFF, LIMIT, has_failed, image, named, pod, put_private, waits};

/// The files below one of the directories of records, as JSON.
fn records(node: &Node, of: &str) -> Result<Vec<Value>> {
    let directory = node.path("kubelet/image_manager").join(of);
    let mut records = Vec::new();
    for entry in fs::read_dir(directory)? {
        records.push(serde_json::from_slice(&fs::read(entry?.path())?)?);
    }
    Ok(records)
}

#[test]
fn a_pulled_image_is_for_those_who_could_pull_it_and_a_preloaded_one_for_all() {
    with_node(async |node| {
        let registry = Registry::start(node).await?;
        registry.put("secret", "1", &image("secret")?)?;
        let agent = Agent::ours(node)?;
        agent.start().await?;
        for (name, password) in [("right", PASSWORD), ("same", PASSWORD), ("bad", "a guess")] {
            put_private(node, &format!("{name}.json"), &pull_secret(name, password))?;
        }
        let secret = named("secret");
        node.put("owner.yaml", &pod("owner", &secret, Some("right")))?;
        let owner = agent.ready("owner", LIMIT).await?;
        let pulled = records(node, "pulled")?;
        let [record] = &pulled[..] else {
            anyhow::bail!("{pulled:?}");
        };
        ensure!(record["kind"] == "ImagePulledRecord", "{record}");
        let used = &record["credentialMapping"]["registry.test/secret"]["kubernetesSecrets"][0];
        ensure!(
            used["name"] == "right" && used["namespace"] == "default",
            "{record}"
        );
        ensure!(records(node, "pulling")?.is_empty());

        // Whoever brings the same credentials needs no registry; whoever brings others, or none, is sent there.
        registry.line().refuse();
        node.put("same.yaml", &pod("same", &secret, Some("same")))?;
        agent.ready("same", LIMIT).await?;
        registry.line().open();
        node.put("bad.yaml", &pod("bad", &secret, Some("bad")))?;
        node.put("none.yaml", &pod("none", &secret, None))?;
        let never = pod("never", &secret, None).replace("IfNotPresent", "Never");
        node.put("never.yaml", &never)?;
        let preloaded = pod("preloaded", "docker.io/library/busybox:1.36", None);
        node.put("preloaded.yaml", &preloaded)?;
        has_failed(&agent, "bad", &secret, &["401 Unauthorized"]).await?;
        has_failed(&agent, "none", &secret, &["401 Unauthorized"]).await?;
        let message = waits(&agent, "never", "ErrImageNeverPull", &[]).await?;
        ensure!(
            message
                == format!("Container image \"{secret}\" is not present with pull policy of Never"),
            "{message}"
        );
        agent.ready("preloaded", LIMIT).await?;

        // It is so for the next agent, too; with another policy it is not; and nobody who runs is touched.
        agent.terminate().await?;
        agent.start().await?;
        node.remove("never.yaml")?;
        node.put("later.yaml", &pod("later", &secret, None))?;
        has_failed(&agent, "later", &secret, &["401 Unauthorized"]).await?;
        agent.terminate().await?;
        agent.configure(
            "imagePullCredentialsVerificationPolicy",
            json!("NeverVerify"),
        )?;
        agent.start().await?;
        for name in ["later", "none", "bad"] {
            agent.ready(name, AFTER_BACKOFF).await?;
        }
        let after = agent.ready("owner", LIMIT).await?;
        ensure!(
            after.instances() == owner.instances(),
            "{}",
            after.describe()
        );
        Ok(())
    });
}

#[test]
fn an_agent_that_died_while_it_pulled_leaves_nothing_open() {
    with_node(async |node| {
        let registry = Registry::start(node).await?;
        registry.put("cut", "1", &image("died")?)?;
        let agent = Agent::ours(node)?;
        agent.start().await?;
        put_private(node, "right.json", &pull_secret("right", PASSWORD))?;
        registry.line().hold_after(4 << 20);
        node.put("cut.yaml", &pod("cut", &named("cut"), Some("right")))?;
        eventually("the pull hangs", LIMIT, async || {
            ensure!(!registry.line().is_open());
            Ok(())
        })
        .await?;
        let pulling = records(node, "pulling")?;
        ensure!(
            pulling.len() == 1 && pulling[0]["image"] == named("cut"),
            "{pulling:?}"
        );
        agent.kill()?;
        registry.line().open();
        agent.start().await?;
        agent.ready("cut", AFTER_BACKOFF).await?;
        ensure!(records(node, "pulling")?.is_empty());
        ensure!(records(node, "pulled")?.len() == 1);
        Ok(())
    });
}

#[test]
fn a_program_gives_the_credentials_of_a_static_pod() {
    with_node(async |node| {
        let registry = Registry::start(node).await?;
        registry.put("app", "1", &image("provided")?)?;
        let binaries = node.path("providers");
        fs::create_dir(&binaries)?;
        let answer = json!({
            "kind": "CredentialProviderResponse",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "cacheKeyType": "Image",
            "auth": { (HOST): { "username": USER, "password": PASSWORD } },
        });
        let program = binaries.join("provider");
        let lock = node.path("locked");
        fs::write(
            &program,
            format!(
                "#!/bin/sh\ncat > {}.asked\n[ ! -e {} ] || {{ echo it is locked >&2; exit 3; }}\necho '{answer}'\n",
                lock.display(),
                lock.display()
            ),
        )?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        fs::write(&lock, "")?;
        let config = node.path("providers.yaml");
        fs::write(
            &config,
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: provider\n  matchImages: ['*.test']\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n",
        )?;
        let agent = Agent::new(node)?
            .with_flag(format!(
                "--image-credential-provider-config={}",
                config.display()
            ))
            .with_flag(format!(
                "--image-credential-provider-bin-dir={}",
                binaries.display()
            ));
        agent.start().await?;
        node.put("app.yaml", &pod("app", &named("app"), None))?;
        has_failed(&agent, "app", &named("app"), &["401 Unauthorized"]).await?;
        let log = agent.log()?;
        ensure!(log.contains("exit status 3: it is locked"), "{log}");
        fs::remove_file(&lock)?;
        agent.ready("app", AFTER_BACKOFF).await?;
        ensure!(!agent.log()?.contains(PASSWORD), "a password is in the log");
        let metrics = node.http_get("127.0.0.1:10255", "/metrics")?.body;
        for family in [
            "kubelet_credential_provider_config_info{hash=\"sha256:",
            "kubelet_credential_provider_plugin_duration_count{plugin_name=\"provider\"}",
            "kubelet_credential_provider_plugin_errors_total{plugin_name=\"provider\"}",
            "kubelet_imagemanager_ondisk_pulledrecords 1",
            "kubelet_image_manager_ensure_image_requests_total{present_locally=\"false\",pull_policy=\"ifnotpresent\",pull_required=\"true\"}",
        ] {
            ensure!(metrics.contains(family), "no {family}: {metrics}");
        }
        Ok(())
    });
}
