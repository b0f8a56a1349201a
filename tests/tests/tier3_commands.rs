//! What somebody at the node's own shell is told: `kubelet status`, `get`, `describe` and `diff` of a node on which some
//! things do not run; logs, numbers and changes of what does.

mod commands;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use commands::ask;
use tests::agent::PodView as _;
use tests::scenario::with_agent;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(90);
const IDLE: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

fn pod(name: &str, image: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  containers:\n  - name: main\n    \
         image: {image}\n    imagePullPolicy: Never\n    command: [sh, -c, {command:?}]\n"
    )
}

#[test]
fn a_node_with_troubles_says_which() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        node.put("web.yaml", &pod("web", "busybox:1.36", IDLE))?;
        node.put("typo.yaml", &pod("typo", "bussybox:1.36", IDLE))?;
        node.put("crash.yaml", &pod("crash", "busybox:1.36", "exit 7"))?;
        node.put(
            "refused.yaml",
            &pod("refused", "busybox:1.36", IDLE).replace("image:", "imge:"),
        )?;
        agent.ready("web", LIMIT).await?;
        eventually("the others are in trouble", LIMIT, async || {
            for (name, reason) in [("crash", "CrashLoopBackOff"), ("typo", "ErrImageNeverPull")] {
                let pod = agent.pod(name)?;
                let state = pod.container("main")?.state.clone();
                let waiting = state.and_then(|state| state.waiting?.reason);
                ensure!(waiting.as_deref() == Some(reason), "{}", pod.describe());
            }
            Ok(())
        })
        .await?;

        let (code, status) = ask(node, agent, &["status"])?;
        ensure!(code == Some(0));
        for line in [
            "on node, up ",
            "/containerd.sock, answers\n",
            ", 3 pods, ",
            "API server:   none: this node stands alone\n",
            "Pods:         1 running, 2 not running\n",
            "  default/crash-node   CrashLoopBackOff (for ",
            "    main: CrashLoopBackOff: back-off ",
            "(last exit code 7 ",
            "  default/typo-node   ErrImageNeverPull (for ",
            "\nRefused manifests:\n",
            "refused.yaml:6:",
        ] {
            ensure!(status.contains(line), "no {line:?} in\n{status}");
        }

        let (_, pods) = ask(node, agent, &["get", "pods"])?;
        let rows: Vec<Vec<&str>> = pods
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        ensure!(
            rows[0] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"],
            "{pods}"
        );
        ensure!(
            rows[1][..3] == ["crash-node", "0/1", "CrashLoopBackOff"],
            "{pods}"
        );
        ensure!(
            rows[2][..3] == ["typo-node", "0/1", "ErrImageNeverPull"],
            "{pods}"
        );
        ensure!(
            rows[3][..4] == ["web-node", "1/1", "Running", "0"],
            "{pods}"
        );
        let (_, yaml) = ask(node, agent, &["get", "pod", "web", "-o", "yaml"])?;
        ensure!(
            yaml.contains("\nkind: Pod\n") && yaml.contains("phase: Running"),
            "{yaml}"
        );
        let (code, missing) = ask(node, agent, &["get", "pods", "nobody"])?;
        ensure!(
            code == Some(1) && missing.contains("pods \"nobody\" not found"),
            "{missing}"
        );

        let (_, described) = ask(node, agent, &["describe", "pod", "typo"])?;
        let lines: Vec<Vec<&str>> = described
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        for line in [
            ["Name:", "typo-node"],
            ["Image:", "bussybox:1.36"],
            ["Reason:", "ErrImageNeverPull"],
            ["Warning", "ErrImageNeverPull"],
        ] {
            ensure!(
                lines.iter().any(|found| found.starts_with(&line)),
                "no {line:?} in\n{described}"
            );
        }

        let file = node.path("web.yaml");
        let diff = |text: String| {
            std::fs::write(&file, text).context("write the manifest to compare")?;
            ask(node, agent, &["diff", &file.display().to_string()])
        };
        let (code, same) = diff(pod("web", "busybox:1.36", IDLE))?;
        ensure!(
            code == Some(0) && same == "pod default/web-node: unchanged\n",
            "{same}"
        );
        let (code, changed) = diff(pod("web", "busybox:1.37", IDLE))?;
        ensure!(
            code == Some(1) && changed.contains("would be replaced"),
            "{changed}"
        );
        let image = "  spec.containers[main].image: \"busybox:1.36\" -> \"busybox:1.37\"\n";
        ensure!(
            changed.ends_with(image) && changed.lines().count() == 2,
            "{changed}"
        );
        Ok(())
    });
}
