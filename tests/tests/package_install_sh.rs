//! `install.sh`: what it looks at, what it installs, and that it leaves nothing behind.

use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;
use std::process::Command;

use anyhow::{Result, ensure};
use tests::package::{self, CONFIG, Machine};

/// Lines that are in one text alone.
fn changed(before: &str, after: &str) -> String {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) =
        (before.lines().collect(), after.lines().collect());
    let lines: Vec<_> = old.symmetric_difference(&new).copied().collect();
    lines.join("\n")
}

#[test]
fn install_sh_says_what_is_missing_and_undoes_what_it_did() -> Result<()> {
    let machine = Machine::start()?;
    let systemd = package::repository().join("systemd");
    let tree = machine.shared().join("kubelet");
    std::fs::create_dir(&tree)?;
    ensure!(
        Command::new("cp")
            .arg("-r")
            .arg(&systemd)
            .arg(&tree)
            .status()?
            .success()
    );
    std::fs::copy(tests::release_binary()?, tree.join("kubelet-binary"))?;
    let install = |shell: &str, arguments: &str| {
        format!(
            "{shell} /shared/kubelet/systemd/install.sh --binary /shared/kubelet/kubelet-binary {arguments}"
        )
    };
    let everything = "find /usr/local /etc /var/lib /var/log -xdev -printf '%p %y %m\\n' | sort";
    let before = machine.run(everything)?;

    let said = machine.fail(&install("dash", ""))?;
    for missing in [
        "neither containerd nor CRI-O runs",
        "no pod network",
        "remedy:",
        "nothing was changed",
    ] {
        assert!(said.contains(missing), "{missing}: {said}");
    }
    machine.run(&install("dash", "--dry-run"))?;
    let after = machine.run(everything)?;
    assert!(after == before, "changed: {}", changed(&before, &after));

    let socket = UnixListener::bind(machine.shared().join("cri.sock"))?;
    machine.run("mkdir -p /run/containerd && ln -s /shared/cri.sock /run/containerd/containerd.sock && mkdir -p /etc/cni/net.d && cp /shared/kubelet/systemd/10-bridge.conflist /etc/cni/net.d/")?;
    let before = machine.run(everything)?;
    for shell in ["dash", "busybox sh"] {
        machine.asked_of_systemd()?;
        let said = machine.run(&install(shell, ""))?;
        assert!(said.contains("done."), "{said}");
        assert_eq!(
            machine.asked_of_systemd()?,
            [
                "daemon-reload",
                "enable kubelet.service",
                "start kubelet.service"
            ]
        );
        machine.run(&format!("/usr/local/bin/kubelet --version && kubelet validate --config {CONFIG} && grep -q ^ExecStart=/usr/local/bin/kubelet /etc/systemd/system/kubelet.service"))?;
        assert_eq!(
            machine.run(&format!(
                "stat -c %a {CONFIG} /etc/systemd/system/kubelet.service"
            ))?,
            "600\n600\n"
        );
        // What it says of itself, at the places where man and the shells look.
        machine.run("cd /usr/local/share && for page in kubelet kubelet-logs kubelet-top-pods kubelet-get-pods; do grep -q '^\\.TH' man/man8/$page.8 || exit; done && grep -q /usr/local/share/kubelet/ man/man8/kubelet.8 && grep -q -e --previous bash-completion/completions/kubelet && test -s zsh/site-functions/_kubelet && test -s fish/vendor_completions.d/kubelet.fish")?;
        // Again, over the one that is there: as an upgrade, and not with a configuration that it refuses.
        machine.run(&install(shell, ""))?;
        assert!(
            machine
                .asked_of_systemd()?
                .contains(&"restart kubelet.service".to_owned())
        );
        machine.run(&format!(
            "cp -p {CONFIG} /run/good && echo 'maxPods: -5' >>{CONFIG}"
        ))?;
        let said = machine.fail(&install(shell, ""))?;
        assert!(
            said.contains("maxPods") && said.contains("nothing was changed"),
            "{said}"
        );
        assert_eq!(machine.asked_of_systemd()?, Vec::<String>::new());
        machine.run(&format!("cp -p /run/good {CONFIG}"))?;

        let uninstall = format!("{shell} /usr/local/share/kubelet/install.sh --uninstall");
        machine.run(&format!(
            "{uninstall} --dry-run && test -e /usr/local/bin/kubelet"
        ))?;
        machine.asked_of_systemd()?;
        machine.run(&uninstall)?;
        assert_eq!(
            machine.asked_of_systemd()?,
            ["disable --now kubelet.service", "daemon-reload"]
        );
        let after = machine.run(everything)?;
        assert!(
            after == before,
            "{shell} left something: {}",
            changed(&before, &after)
        );
    }

    // What the user has changed, or put there, stays.
    machine.run(&install("dash", ""))?;
    machine.run(&format!(
        "echo '# mine' >>{CONFIG} && touch /etc/kubernetes/manifests/web.yaml"
    ))?;
    let said = machine.run("sh /usr/local/share/kubelet/install.sh --uninstall")?;
    assert!(
        said.contains("was changed and stays")
            && said.contains("/etc/kubernetes/manifests is not empty and stays"),
        "{said}"
    );
    machine.run(&format!("test -e {CONFIG} && test -e /etc/kubernetes/manifests/web.yaml && test ! -e /usr/local/bin/kubelet"))?;
    drop(socket);
    Ok(())
}
