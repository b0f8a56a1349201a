//! What installing, upgrading, removing and purging the package do to a machine.

use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::cis::{self, Finding};
use tests::fake_runtime::FakeRuntime;
use tests::images::BUSYBOX;
use tests::package::{self, Agent, CONFIG, Machine, installed, packages};
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_first_installation_writes_a_configuration_for_the_machine_and_starts() -> Result<()> {
    let (machine, said) = installed(&packages()?.0)?;
    assert!(said.contains(&format!("wrote {CONFIG}")), "{said}");
    assert_eq!(
        machine.run(&format!("stat -c '%a %U:%G' {CONFIG}"))?,
        "600 root:root\n"
    );
    let judged = machine.run(&format!("kubelet validate --config {CONFIG}"))?;
    assert!(judged.contains("ok"), "{judged}");
    assert!(machine.run("dpkg --verify kubelet")?.is_empty());
    let asked = machine.asked_of_systemd()?;
    assert!(asked.contains(&"daemon-reload".to_owned()), "{asked:?}");
    assert!(
        asked.contains(&"start kubelet.service".to_owned()),
        "{asked:?}"
    );
    machine.run("test -L /etc/systemd/system/multi-user.target.wants/kubelet.service")?;
    assert_eq!(
        machine.run("stat -c %a /etc/kubernetes/manifests /var/lib/kubelet")?,
        "700\n700\n"
    );
    Ok(())
}

#[test]
fn what_is_there_already_is_left_alone() -> Result<()> {
    let machine = Machine::start()?;
    let deb = machine.share(&packages()?.0)?;
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    machine.run(&format!(
        "mkdir -p /var/lib/kubelet /etc/kubernetes/manifests && printf '{head}' >{CONFIG} && chmod 640 {CONFIG} && chmod 755 /etc/kubernetes/manifests"
    ))?;
    machine.run(&format!("dpkg -i {deb}"))?;
    assert_eq!(
        machine.run(&format!(
            "cat {CONFIG}; stat -c %a {CONFIG} /etc/kubernetes/manifests"
        ))?,
        format!("{head}640\n755\n")
    );

    let machine = Machine::start()?;
    let deb = machine.share(&packages()?.0)?;
    let directory = "/usr/lib/systemd/system/kubelet.service.d";
    machine.run(&format!(
        "mkdir -p {directory} && touch {directory}/10-kubeadm.conf && dpkg -i {deb}"
    ))?;
    machine
        .run(&format!("test ! -e {CONFIG}"))
        .context("kubeadm writes it")?;
    Ok(())
}

#[test]
fn the_configuration_goes_by_the_machine() -> Result<()> {
    let (machine, _) = installed(&packages()?.0)?;
    let field = |name: &str| -> Result<String> {
        let text = machine.run("/usr/share/kubelet/node-config")?;
        let start = format!("{name}: ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        Ok(line.with_context(|| format!("no {name}"))?.to_owned())
    };
    assert_eq!(field("resolvConf")?, "/etc/resolv.conf");
    machine.run("mkdir -p /run/systemd/resolve && touch /run/systemd/resolve/resolv.conf")?;
    assert_eq!(
        field("resolvConf")?,
        "/etc/resolv.conf",
        "left behind by a resolved that does not run"
    );
    machine.run("echo systemd-resolved.service >/run/active")?;
    assert_eq!(field("resolvConf")?, "/run/systemd/resolve/resolv.conf");

    let head = "Filename Type Size Used Priority\\n";
    machine.run(&format!(
        "printf '{head}' >/run/swaps && mount --bind /run/swaps /proc/swaps"
    ))?;
    assert_eq!(field("failSwapOn")?, "true");
    machine.run(&format!(
        "printf '{head}/swapfile file 9 0 -2\\n' >/run/swaps"
    ))?;
    assert_eq!(field("failSwapOn")?, "false");

    // What containerd says of itself, in the layouts of 1.x and 2.x; the default handler's counts.
    let one = r#"[plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.other.options]
        SystemdCgroup = OTHER
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = RUNC
"#;
    let two = "[plugins.'io.containerd.cri.v1.runtime'.containerd]\n  default_runtime_name = 'crun'\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n  SystemdCgroup = OTHER\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun.options]\n  SystemdCgroup = RUNC\n";
    for layout in [one, two] {
        for (runc, other, driver) in [("true", "false", "systemd"), ("false", "true", "cgroupfs")] {
            let dump = layout.replace("RUNC", runc).replace("OTHER", other);
            std::fs::write(machine.shared().join("dump"), dump)?;
            machine.run("printf '#!/bin/sh\\ncat /shared/dump\\n' >/usr/local/bin/containerd && chmod +x /usr/local/bin/containerd")?;
            assert_eq!(field("cgroupDriver")?, driver, "{layout}");
        }
    }
    assert_eq!(
        field("containerRuntimeEndpoint")?,
        "unix:///run/containerd/containerd.sock"
    );
    let _socket = UnixListener::bind(machine.shared().join("crio.sock"))?;
    machine.run("mkdir -p /run/crio && ln -s /shared/crio.sock /run/crio/crio.sock")?;
    assert_eq!(
        field("containerRuntimeEndpoint")?,
        "unix:///run/crio/crio.sock"
    );
    assert_eq!(field("cgroupDriver")?, "systemd");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_replaces_the_agent_only_when_the_new_one_takes_its_configuration() -> Result<()>
{
    let (old, new) = packages()?;
    let (machine, _) = installed(old)?;
    let new = machine.share(new)?;
    let runtime = FakeRuntime::start().await?;
    let _agent = Agent::start(&machine, &runtime).await?;
    machine.asked_of_systemd()?;
    let pid = machine.run("cat /run/kubelet.pid")?;

    machine.run(&format!(
        "cp {CONFIG} /root/good && sed -i 's/^podPidsLimit:.*/maxPods: -5/' {CONFIG}"
    ))?;
    let said = machine.fail(&format!("dpkg -i {new}"))?;
    assert!(
        said.contains("maxPods") && said.contains("-5"),
        "why: {said}"
    );
    assert!(
        said.contains("the old agent has not been stopped"),
        "{said}"
    );
    assert!(
        said.contains("dpkg --configure kubelet"),
        "the remedy: {said}"
    );
    assert_eq!(machine.asked_of_systemd()?, ["daemon-reload"]);
    assert_eq!(
        machine.run("cat /run/kubelet.pid && kill -0 $(cat /run/kubelet.pid)")?,
        pid
    );

    machine.run(&format!(
        "cp /root/good {CONFIG} && dpkg --configure kubelet"
    ))?;
    let asked = machine.asked_of_systemd()?;
    assert!(
        asked.contains(&"restart kubelet.service".to_owned()),
        "{asked:?}"
    );
    assert!(
        !asked.iter().any(|line| line.starts_with("stop")),
        "{asked:?}"
    );

    // Back again, and then one that somebody has stopped: it stays so.
    let old = machine.share(old)?;
    machine.run(&format!("dpkg -i {old}"))?;
    let asked = machine.asked_of_systemd()?;
    assert!(
        asked.contains(&"restart kubelet.service".to_owned()),
        "{asked:?}"
    );
    machine.run("rm /run/kubelet.pid")?;
    machine.run(&format!("dpkg -i {new}"))?;
    assert_eq!(machine.asked_of_systemd()?, ["daemon-reload"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_refuses_flags_that_the_new_agent_does_not_know() -> Result<()> {
    let (old, new) = packages()?;
    let (machine, _) = installed(old)?;
    let new = machine.share(new)?;
    // An agent of another version, as far as its command line says.
    let script =
        "echo $$ >/run/kubelet.pid; exec awk 'BEGIN { system(\"sleep 1000\") }' --flag-of-old=1";
    let mut agent = machine.command(script).spawn()?;
    eventually("the process is there", LIMIT, async || {
        machine.run("grep -q flag-of-old /proc/$(cat /run/kubelet.pid)/cmdline")?;
        Ok(())
    })
    .await?;
    let said = machine.fail(&format!("dpkg -i {new}"))?;
    assert!(said.contains("unknown flag: --flag-of-old"), "{said}");
    assert!(
        said.contains("the old agent has not been stopped"),
        "{said}"
    );
    agent.kill()?;
    agent.wait()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_leaves_pods_alone_unless_asked_and_then_ends_them() -> Result<()> {
    let (machine, _) = installed(&packages()?.0)?;
    let deb = machine.share(&packages()?.0)?;
    let runtime = FakeRuntime::start().await?;
    runtime.add_image(BUSYBOX);
    let agent = Agent::start(&machine, &runtime).await?;
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: app, image: {BUSYBOX}, imagePullPolicy: Never, command: [sleep, '1000']}}\n"
    );
    std::fs::write(machine.shared().join("web.yaml"), manifest)?;
    machine.run("cp /shared/web.yaml /etc/kubernetes/manifests/")?;
    eventually("the pod runs", LIMIT, async || {
        ensure!(
            runtime.running("app").len() == 1,
            "{:?}",
            runtime.containers()
        );
        Ok(())
    })
    .await?;
    agent.stop(&machine)?;
    machine.asked_of_systemd()?;

    let said = machine.run("dpkg --remove kubelet")?;
    assert!(said.contains("pods keep running"), "{said}");
    assert!(
        machine
            .asked_of_systemd()?
            .contains(&"stop kubelet.service".to_owned())
    );
    assert_eq!(runtime.running("app").len(), 1);
    machine.run(&format!("test -e {CONFIG} && test -e /etc/default/kubelet"))?;

    machine.run(&format!("dpkg -i {deb}"))?;
    let said = machine.run("KUBELET_STOP_PODS=1 dpkg --purge kubelet")?;
    assert!(said.contains("all pods have ended"), "{said}");
    assert!(runtime.running("app").is_empty());
    assert_eq!(
        machine.run("ls -d /var/lib/kubelet /etc/default/kubelet /usr/share/kubelet /etc/systemd/system/multi-user.target.wants/kubelet.service 2>/dev/null; true")?,
        ""
    );
    assert_eq!(machine.run("ls /etc/kubernetes/manifests")?, "web.yaml\n");
    Ok(())
}

#[test]
fn a_purge_unmounts_what_is_the_agents_and_refuses_what_is_not() -> Result<()> {
    let (machine, _) = installed(&packages()?.0)?;
    machine.run(
        r"set -e
        pods=/var/lib/kubelet/pods
        volumes=$pods/u-1/volumes/kubernetes.io~empty-dir
        mkdir -p $volumes/memory /root/data '/root/my data' $pods/u-1/plugins $pods/u-2 /var/log/pods/default_web_u-1/app /var/log/containers
        mount -t tmpfs tmpfs $volumes/memory
        mount --bind /root/data $pods/u-1/plugins
        mkdir -p '/var/lib/kubelet/a b' && mount --bind '/root/my data' '/var/lib/kubelet/a b'
        mkdir -p /root/host $pods/u-1/volume-subpaths/host/c/0
        mount -t tmpfs tmpfs /root/host && mount --make-shared /root/host && mkdir /root/host/usb
        mount --bind /root/host $pods/u-1/volume-subpaths/host/c/0
        mount -t tmpfs tmpfs /root/host/usb && touch /root/host/usb/precious
        touch $volumes/memory/file /root/data/precious '/root/my data/precious' $pods/u-2/file
        echo log >/var/log/pods/default_web_u-1/app/0.log
        ln -s /var/log/pods/default_web_u-1/app/0.log /var/log/containers/web.log",
    )?;
    machine.run("dpkg --remove kubelet")?;
    let said = machine.fail("dpkg --purge kubelet")?;
    assert!(
        said.contains("/var/lib/kubelet/pods/u-1/plugins") && said.contains("/var/lib/kubelet/a b"),
        "{said}"
    );
    assert!(!said.contains("memory"), "{said}");
    machine.run(&format!("test -e /root/data/precious && test -e '/root/my data/precious' && test -e /var/lib/kubelet/pods/u-2/file && test -e {CONFIG}"))?;
    machine
        .run("! grep -q -e empty-dir -e volume-subpaths /proc/self/mountinfo")
        .context("the volume and the part of a volume are unmounted")?;
    machine
        .run("test -e /root/host/usb/precious")
        .context("what the node has mounted in its own directory stays")?;

    machine.run(
        "umount /var/lib/kubelet/pods/u-1/plugins '/var/lib/kubelet/a b' && dpkg --purge kubelet",
    )?;
    machine.run("test -e /root/data/precious && test -e '/root/my data/precious'")?;
    machine.run(
        "test ! -e /var/lib/kubelet && test ! -e /var/log/pods && test ! -e /var/log/containers",
    )?;
    Ok(())
}

#[test]
fn a_purge_keeps_the_files_of_a_pod_that_runs() -> Result<()> {
    let (machine, _) = installed(&packages()?.0)?;
    machine.run(
        r"set -e
        pods=/var/lib/kubelet/pods
        mkdir -p $pods/u-1/volumes/kubernetes.io~empty-dir/data $pods/u-1/volumes/kubernetes.io~empty-dir/memory $pods/u-2 /var/log/pods/default_web_u-1 /var/log/pods/default_gone_u-2
        echo hosts >$pods/u-1/etc-hosts
        mount -t tmpfs tmpfs $pods/u-1/volumes/kubernetes.io~empty-dir/memory
        echo kept >$pods/u-1/volumes/kubernetes.io~empty-dir/memory/file
        mkdir -p /root/in && touch /root/in/hosts && mkdir /root/in/memory",
    )?;
    // A container as far as the kernel can tell: a mount namespace with pieces of the pod's directory bound into it.
    let script = "mount --bind /var/lib/kubelet/pods/u-1/etc-hosts /root/in/hosts && mount --bind /var/lib/kubelet/pods/u-1/volumes/kubernetes.io~empty-dir/memory /root/in/memory && touch /shared/bound && exec sleep 1000";
    let mut container = machine.command(&format!(
        "exec unshare --mount --propagation private sh -c '{script}'"
    ));
    let mut container = container
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    while !machine.shared().join("bound").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = machine.run("dpkg --purge kubelet")?;
    assert!(
        said.contains("these pods still run") && said.contains("/var/lib/kubelet/pods/u-1"),
        "{said}"
    );
    assert_eq!(
        machine.run("ls /var/lib/kubelet /var/lib/kubelet/pods /var/log/pods")?,
        "/var/lib/kubelet:\npods\n\n/var/lib/kubelet/pods:\nu-1\n\n/var/log/pods:\ndefault_web_u-1\n"
    );
    machine.run("test -d /var/lib/kubelet/pods/u-1/volumes/kubernetes.io~empty-dir/data")?;
    machine
        .run("! grep -q /var/lib/kubelet/ /proc/self/mountinfo")
        .context("no mount is left")?;
    let seen = machine.run("cat /proc/$(pgrep -xf 'sleep 1000')/root/root/in/memory/file")?;
    assert_eq!(seen, "kept\n", "the container has its own");
    container.kill()?;
    container.wait()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_passes_the_benchmark_with_the_defaults() -> Result<()> {
    let (machine, _) = installed(&packages()?.0)?;
    let runtime = FakeRuntime::start().await?;
    let _agent = Agent::start(&machine, &runtime).await?;
    let items = cis::audit(&mut |script| machine.run(script))?;
    let said: Vec<_> = items.iter().map(ToString::to_string).collect();
    println!("{}", said.join("\n"));
    assert!(
        !items
            .iter()
            .any(|item| matches!(item.finding, Finding::Fail(_))),
        "{said:#?}"
    );
    // The manual's table says the same.
    let manual = std::fs::read_to_string(package::repository().join("docs/manual.md"))?;
    for item in &items {
        let start = format!("| {} |", item.id);
        let row = manual.lines().find(|line| line.starts_with(&start));
        let row = row.with_context(|| format!("no {} in docs/manual.md", item.id))?;
        let word = match item.finding {
            Finding::NotApplicable(_) => "| not applicable |",
            _ => "| passes |",
        };
        assert!(row.contains(word), "{row}: {item}");
    }
    let log = Agent::log(&machine)?;
    for field in ["tlsCipherSuites", "authentication", "eventRecordQPS"] {
        assert!(!log.contains(field), "nothing to warn of: {log}");
    }
    Ok(())
}
