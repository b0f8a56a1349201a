//! Volumes of NFS servers: mounted by the node's own program, which a test writes.

use super::*;

/// A program that mounts as mount(8) would, but from a directory of this machine; it writes down what it is asked for.
fn mounter(node: &FakeNode, export: &Path) -> Result<PathBuf> {
    let script = node.path("mounter");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> {log}\n[ -e {hang} ] && exec sleep 600\nfor last; do :; done\nexec mount --bind {export} \"$last\"\n",
        log = node.path("mounted").display(),
        hang = node.path("hang").display(),
        export = export.display(),
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

#[test]
fn exports_of_servers_are_mounted_by_the_nodes_program() {
    with_cluster(async |cluster, node| {
        let export = data(node, "export")?;
        let script = mounter(node, &export)?;
        node.set_flag(
            "--experimental-mounter-path",
            script.to_str().context("text")?,
        );
        node.start_agent()?;
        // A static pod has one by itself, and a pod of the API server by a claim.
        let manifest = "---\n{apiVersion: v1, kind: Pod, metadata: {name: s}, spec: {terminationGracePeriodSeconds: 1, \
             volumes: [{name: v, nfs: {server: 'fd00::1', path: /srv, readOnly: true}}], \
             containers: [{name: main, image: 'busybox:1', volumeMounts: [{name: v, mountPath: /v}]}]}}";
        node.put("s.yaml", manifest)?;
        let fixed = node.ready("s").await?;
        let source = json!({
            "nfs": { "server": "nas.example", "path": "/srv/db" },
            "mountOptions": ["vers=4.1", "hard"],
        });
        bound(cluster, "db", "Filesystem", &source).await?;
        let pod = cluster.add(&with_claim("a", "db")).await?;
        cluster.ready("a").await?;
        let own = place(node, &fixed, "volumes/kubernetes.io~nfs/v");
        let claimed = place(node, &pod, "volumes/kubernetes.io~nfs/pv-db");
        let asked = fs::read_to_string(node.path("mounted"))?;
        ensure!(
            asked
                == format!(
                    "mount -t nfs -o ro [fd00::1]:/srv {}\nmount -t nfs -o hard,vers=4.1 nas.example:/srv/db {}\n",
                    own.display(),
                    claimed.display()
                ),
            "{asked}"
        );
        let at = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.ino());
        ensure!(at(&own)? == at(&export)? && at(&claimed)? == at(&export)?);
        // Another life of the agent mounts nothing anew.
        node.kill_agent()?;
        node.start_agent()?;
        cluster.ready("a").await?;
        let container = node.runtime.running("default/a/main").pop();
        ensure!(
            node.runtime
                .kill_container(&container.context("none")?.id, 1)
        );
        cluster
            .pod_shows("a restart", "a", SOON, |pod| {
                is_ready(pod) && pod.statuses()[0].restart_count == 1
            })
            .await?;
        ensure!(fs::read_to_string(node.path("mounted"))? == asked);
        ensure!(mounts(&claimed)? == 1);
        cluster.delete_pod("a", Some(1)).await?;
        node.remove("s.yaml")?;
        cluster.gone(node, &pod).await?;
        node.gone(&fixed).await?;
        is_whole(&export)
    });
}

#[test]
fn a_server_that_is_away_holds_up_only_who_needs_it() {
    with_cluster(async |cluster, node| {
        let export = data(node, "export")?;
        let script = mounter(node, &export)?;
        fs::write(node.path("hang"), "")?;
        node.set_flag(
            "--experimental-mounter-path",
            script.to_str().context("text")?,
        );
        node.start_agent()?;
        let manifest = |volume: &str| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: s}}, spec: {{terminationGracePeriodSeconds: 1, \
                 volumes: [{volume}], \
                 containers: [{{name: main, image: 'busybox:1', volumeMounts: [{{name: v, mountPath: /v}}]}}]}}}}"
            )
        };
        for pod in 0..6 {
            let text = manifest("{name: v, nfs: {server: gone, path: /srv}}");
            node.put(
                &format!("s{pod}.yaml"),
                &text.replace("name: s}", &format!("name: s{pod}}}")),
            )?;
        }
        eventually("all of them are tried", LIMIT, async || {
            let asked = fs::read_to_string(node.path("mounted")).unwrap_or_default();
            ensure!(asked.lines().count() >= 6, "{asked}");
            Ok(())
        })
        .await?;
        // Others come and run.
        cluster.add(&bound_pod("a")).await?;
        cluster.ready("a").await?;
        // One that is exchanged does not wait for its server, nor does one that goes.
        let text = manifest("{name: v, emptyDir: {}}").replace("name: s}", "name: s0}");
        node.put("s0.yaml", &text)?;
        node.ready("s0").await?;
        node.remove("s1.yaml")?;
        eventually("it has gone", LIMIT, async || {
            ensure!(node.pod("s1").is_err());
            Ok(())
        })
        .await?;
        // The server is back: whoever is still at it has to be given up first.
        fs::remove_file(node.path("hang"))?;
        for pod in 2..6 {
            node.remove(&format!("s{pod}.yaml"))?;
        }
        node.put(
            "t.yaml",
            &manifest("{name: v, nfs: {server: back, path: /srv}}").replace("name: s}", "name: t}"),
        )?;
        let pod = node.ready("t").await?;
        node.remove("t.yaml")?;
        node.gone(&pod).await?;
        is_whole(&export)
    });
}
