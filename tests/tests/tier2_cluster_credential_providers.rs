//! A credential provider that is given tokens of pods' service accounts, and for whom the image is afterwards: on the double,
//! and on a real API server when `KUBEBUILDER_ASSETS` is set. Configurations of such programs that no agent starts with.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::agent::PodView as _;
use tests::cluster::{Cluster, bound_pod, path, with_cluster};
use tests::in_process::{FakeNode, with_node};
use tests::service::{ServedAgent, Serving, field};

const IMAGE: &str = "r.example/team/app:1";

/// Lets the agent have a provider, which keeps what it is asked in the file `asked` and knows the user `robot`.
fn with_provider(node: &FakeNode) -> Result<()> {
    let binaries = node.path("providers");
    fs::create_dir(&binaries)?;
    // The shell itself: a file that was just written may still be open in a child of another test.
    symlink("/bin/sh", binaries.join("provider"))?;
    let answer = json!({
        "kind": "CredentialProviderResponse",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Registry",
        "auth": { "r.example": { "username": "robot", "password": "hush" } },
    });
    let asked = node.path("asked");
    let script = format!("cat >> {}; echo '{answer}'", asked.display());
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1",
        "kind": "CredentialProviderConfig",
        "providers": [{
            "name": "provider",
            "matchImages": ["r.example"],
            "defaultCacheDuration": "1h",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "args": ["-c", script],
            "tokenAttributes": {
                "serviceAccountTokenAudience": "r.example",
                "cacheType": "ServiceAccount",
                "requireServiceAccount": true,
                "requiredServiceAccountAnnotationKeys": ["r.example/role"],
            },
        }],
    });
    let file = node.path("providers.json");
    fs::write(&file, config.to_string())?;
    node.set_flag(
        "--image-credential-provider-config",
        &file.display().to_string(),
    );
    node.set_flag(
        "--image-credential-provider-bin-dir",
        &binaries.display().to_string(),
    );
    Ok(())
}

fn asked(node: &FakeNode) -> Result<Vec<Value>> {
    let text = fs::read_to_string(node.path("asked")).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().context("what it was asked")
}

/// Lets nodes have tokens for the provider's audience: an API server gives none for others than its own and those of
/// volumes. The double does not ask.
async fn allow_audience(cluster: &Cluster) -> Result<()> {
    if cluster.double().is_some() {
        return Ok(());
    }
    let (group, name) = ("rbac.authorization.k8s.io", "audience");
    let role = json!({
        "metadata": { "name": name },
        "rules": [{
            "apiGroups": [""], "resources": ["r.example"], "verbs": ["request-serviceaccounts-token-audience"],
        }],
    });
    let binding = json!({
        "metadata": { "name": name },
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": name },
        "subjects": [{ "apiGroup": group, "kind": "Group", "name": "system:nodes" }],
    });
    let client = cluster.client();
    client.create(&path("clusterroles", "", ""), &role).await?;
    let bindings = path("clusterrolebindings", "", "");
    client.create(&bindings, &binding).await.map(drop)
}

fn pod(name: &str, account: &str) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["serviceAccountName"] = json!(account);
    pod["spec"]["containers"][0]["image"] = json!(IMAGE);
    pod["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
    pod
}

#[test]
fn a_provider_is_given_the_pods_token_and_the_image_is_its_accounts() {
    with_cluster(async |cluster, node| {
        with_provider(node)?;
        allow_audience(cluster).await?;
        for (name, annotations) in [
            ("builder", json!({ "r.example/role": "pull" })),
            ("other", json!({ "r.example/role": "push" })),
            ("plain", json!({})),
        ] {
            let account = json!({ "metadata": { "name": name, "annotations": annotations } });
            cluster.add_object("serviceaccounts", &account).await?;
        }
        node.start_agent()?;
        cluster.add(&pod("a", "builder")).await?;
        let first = cluster.ready("a").await?;
        ensure!(node.runtime.pulled_as(IMAGE) == ["robot"]);
        let questions = asked(node)?;
        let [question] = &questions[..] else {
            anyhow::bail!("{} questions", questions.len());
        };
        ensure!(
            question["image"] == "r.example/team/app",
            "{}",
            question["image"]
        );
        ensure!(question["serviceAccountAnnotations"] == json!({ "r.example/role": "pull" }));
        let token = question["serviceAccountToken"].as_str().unwrap_or_default();
        ensure!(token.split('.').count() == 3, "no token was given");

        // Another pod of the account is let in by what is kept; the account of another is asked for, and pulls.
        cluster.add(&pod("b", "builder")).await?;
        cluster.ready("b").await?;
        ensure!(node.runtime.pulled_as(IMAGE) == ["robot"] && asked(node)?.len() == 1);
        cluster.add(&pod("c", "other")).await?;
        cluster.ready("c").await?;
        ensure!(node.runtime.pulled_as(IMAGE) == ["robot", "robot"]);
        ensure!(asked(node)?.len() == 2);
        // Without the annotation nothing is run, and the image is pulled as nobody.
        cluster.add(&pod("d", "plain")).await?;
        cluster.ready("d").await?;
        ensure!(node.runtime.pulled_as(IMAGE) == ["robot", "robot", ""]);
        ensure!(asked(node)?.len() == 2);

        let directory = node.path("kubelet").join("image_manager/pulled");
        let records: Vec<_> = fs::read_dir(&directory)?.collect::<Result<_, _>>()?;
        ensure!(records.len() == 1, "{records:?}");
        ensure!(cluster.pod("a").await?.instances() == first.instances());
        let log = node.log();
        ensure!(
            !log.contains("hush") && !log.contains(token),
            "a secret is in the log"
        );
        Ok(())
    });
}

/// Upstream's words; its exit code is 1 for all of them.
#[test]
fn credential_providers_that_are_wrong_end_the_start_with_the_reason() {
    with_node(async |node| {
        let binaries = node.path("providers");
        fs::create_dir(&binaries)?;
        symlink("/bin/true", binaries.join("there"))?;
        let file = |name: &str, text: &str| {
            let path = node.path(name);
            fs::write(&path, text).map(|()| path)
        };
        let config = |version: &str, provider: &str, cache: &str| {
            format!(
                "apiVersion: kubelet.config.k8s.io/{version}\nkind: CredentialProviderConfig\nproviders:\n- name: {provider}\n  matchImages: [r.io]\n  {cache}apiVersion: credentialprovider.kubelet.k8s.io/v1\n"
            )
        };
        let cache = "defaultCacheDuration: 1m\n  ";
        let right = file("right.yaml", &config("v1", "there", cache))?;
        let nowhere = node.path("nowhere");
        for (config, binaries, said) in [
            (
                &right,
                &nowhere,
                format!(
                    "plugin binary directory {} did not exist",
                    nowhere.display()
                ),
            ),
            (&nowhere, &binaries, nowhere.display().to_string()),
            (
                &file("program.yaml", &config("v1", "missing", cache))?,
                &binaries,
                format!(
                    "plugin binary executable {} did not exist",
                    binaries.join("missing").display()
                ),
            ),
            (
                &file("version.yaml", &config("v7", "there", cache))?,
                &binaries,
                "found \"kubelet.config.k8s.io/v7\"".to_owned(),
            ),
            (
                &file("cache.yaml", &config("v1", "there", ""))?,
                &binaries,
                "defaultCacheDuration: Required value".to_owned(),
            ),
        ] {
            let serving = Serving {
                flags: vec![
                    format!("--image-credential-provider-config={}", config.display()),
                    format!("--image-credential-provider-bin-dir={}", binaries.display()),
                ],
                ..Serving::default()
            };
            let agent = ServedAgent::spawn(node, &serving)?;
            let code = agent.ended().await?.code();
            ensure!(code == Some(78), "{code:?}");
            let (_, status) = agent.status("a status", 0, |_| true).await?;
            ensure!(
                status.starts_with("cannot start: ") && status.contains(&said),
                "{status}"
            );
            let (_, entry) = agent.journal.message("an entry", 0, |_| true).await?;
            ensure!(
                field(&entry, "REASON") == Some("ConfigurationRefused"),
                "{entry}"
            );
        }
        Ok(())
    });
}
