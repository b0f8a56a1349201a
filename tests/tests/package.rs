//! The package: what is in it, and what installing, upgrading, removing and purging it do to a machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::cis::{self, Finding};
use tests::fake_runtime::FakeRuntime;
use tests::images::BUSYBOX;
use tests::package::{self, Machine};
use tests::wait::eventually;

const OLD: &str = "0.0.9";
const NEW: &str = "9.0.0-rc.1";
const CONFIG: &str = "/var/lib/kubelet/config.yaml";
const LIMIT: Duration = Duration::from_secs(60);
/// A machine without controllers for cgroups.
const NO_CGROUPS: &str = "--cgroups-per-qos=false --enforce-node-allocatable=";

static PACKAGES: LazyLock<Result<(PathBuf, PathBuf), String>> = LazyLock::new(|| {
    let packed = || -> Result<_> {
        let directory = tests::target_dir()?.join("package-tests");
        let binary = package::binary()?;
        Ok((
            package::pack(&binary, OLD, &directory)?,
            package::pack(&binary, NEW, &directory)?,
        ))
    };
    packed().map_err(|error| format!("{error:#}"))
});

/// The package as [`OLD`] and as [`NEW`].
fn packages() -> Result<&'static (PathBuf, PathBuf)> {
    PACKAGES.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// What a command of the host prints.
fn output(program: &str, arguments: &[&str], path: &Path) -> Result<String> {
    let output = Command::new(program).args(arguments).arg(path).output()?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Paths in the package, with their modes as `ls` writes them and their owners.
fn contents(deb: &Path) -> Result<BTreeMap<String, (String, String)>> {
    let list = output("dpkg-deb", &["--contents"], deb)?;
    let lines = list.lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let path = words[5].trim_start_matches('.').to_owned();
        (path, (words[0].to_owned(), words[1].to_owned()))
    });
    Ok(lines.collect())
}

#[test]
fn the_package_has_what_it_should_where_upstream_has_it() -> Result<()> {
    let (deb, _) = packages()?;
    let contents = contents(deb)?;
    for (path, mode) in [
        ("/usr/bin/kubelet", "-rwxr-xr-x"),
        ("/usr/lib/systemd/system/kubelet.service", "-rw-------"),
        ("/usr/lib/tmpfiles.d/kubelet.conf", "-rw-r--r--"),
        ("/usr/share/kubelet/node-config", "-rwxr-xr-x"),
        ("/usr/share/kubelet/stop-pods", "-rwxr-xr-x"),
        ("/etc/default/kubelet", "-rw-r--r--"),
        ("/etc/kubernetes/manifests/", "drwx------"),
        ("/usr/share/doc/kubelet/copyright", "-rw-r--r--"),
        ("/usr/share/doc/kubelet/changelog.gz", "-rw-r--r--"),
        ("/usr/share/doc/kubelet/examples/10-kubeadm.conf", "-rw-r--r--"),
        ("/usr/share/man/man8/kubelet.8.gz", "-rw-r--r--"),
    ] {
        let found = contents.get(path).with_context(|| format!("no {path}: {contents:?}"))?;
        assert_eq!(found.0, mode, "{path}");
    }
    for (path, (_, owner)) in &contents {
        assert_eq!(owner, "root/root", "{path}");
        // The configuration is made for the machine; kubeadm's drop-in is in kubeadm's package.
        assert!(!path.starts_with("/var/"), "{path}");
        assert!(!path.contains("/system/kubelet.service.d"), "{path}");
    }
    let field = |name: &str| -> Result<String> {
        let text = output("dpkg-deb", &["--show", &format!("--showformat=${{{name}}}")], deb)?;
        Ok(text.trim().to_owned())
    };
    assert_eq!(field("Package")?, "kubelet");
    assert_eq!(field("Version")?, format!("1:{OLD}"));
    let depends = field("Depends")?;
    assert!(depends.starts_with("containerd | containerd.io | cri-o,"), "{depends}");
    let conffiles = output("dpkg-deb", &["--info"], deb)?;
    assert!(conffiles.contains("conffiles"), "{conffiles}");
    Ok(())
}

#[test]
fn versions_are_in_the_order_that_upgrades_go_by() -> Result<()> {
    let (old, new) = packages()?;
    let version = |deb| output("dpkg-deb", &["--show", "--showformat=${Version}"], deb);
    let (old, new) = (version(old)?, version(new)?);
    let less = |a: &str, b: &str| {
        let status = Command::new("dpkg").args(["--compare-versions", a, "lt", b]).status();
        status.is_ok_and(|status| status.success())
    };
    assert!(less(&old, &new), "{old} {new}");
    assert!(less(&new, "1:9.0.0"), "a candidate comes before its release: {new}");
    assert!(less("1.36.2-1.1", &old), "upstream's is not an upgrade of ours");
    Ok(())
}

#[test]
fn the_same_input_makes_the_same_package() -> Result<()> {
    let (deb, _) = packages()?;
    let directory = tempfile::tempdir()?;
    let again = package::pack(&package::binary()?, OLD, directory.path())?;
    assert!(std::fs::read(deb)? == std::fs::read(again)?);
    Ok(())
}

#[test]
fn the_shells_of_other_systems_can_read_the_scripts() -> Result<()> {
    let systemd = package::repository().join("systemd");
    let scripts = ["node-config", "stop-pods", "install.sh", "package/postinst", "package/prerm", "package/postrm"];
    for script in scripts {
        let path = systemd.join(script);
        for shell in [&["dash"][..], &["busybox", "sh"]] {
            output(shell[0], &[&shell[1..], &["-n"]].concat(), &path).with_context(|| script.to_owned())?;
        }
    }
    Ok(())
}

/// A machine with this package on it.
fn installed(deb: &Path) -> Result<(Machine, String)> {
    let machine = Machine::start()?;
    let path = machine.share(deb)?;
    let said = machine.run(&format!("dpkg -i {path}"))?;
    Ok((machine, said))
}

#[test]
fn a_first_installation_writes_a_configuration_for_the_machine_and_starts() -> Result<()> {
    let (machine, said) = installed(&packages()?.0)?;
    assert!(said.contains(&format!("wrote {CONFIG}")), "{said}");
    assert_eq!(machine.run(&format!("stat -c '%a %U:%G' {CONFIG}"))?, "600 root:root\n");
    let judged = machine.run(&format!("kubelet validate --config {CONFIG}"))?;
    assert!(judged.contains("ok"), "{judged}");
    assert!(machine.run("dpkg --verify kubelet")?.is_empty());
    let asked = machine.asked_of_systemd()?;
    assert!(asked.contains(&"daemon-reload".to_owned()), "{asked:?}");
    assert!(asked.contains(&"start kubelet.service".to_owned()), "{asked:?}");
    machine.run("test -L /etc/systemd/system/multi-user.target.wants/kubelet.service")?;
    assert_eq!(machine.run("stat -c %a /etc/kubernetes/manifests /var/lib/kubelet")?, "700\n700\n");
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
    assert_eq!(machine.run(&format!("cat {CONFIG}; stat -c %a {CONFIG} /etc/kubernetes/manifests"))?, format!("{head}640\n755\n"));

    let machine = Machine::start()?;
    let deb = machine.share(&packages()?.0)?;
    let directory = "/usr/lib/systemd/system/kubelet.service.d";
    machine.run(&format!("mkdir -p {directory} && touch {directory}/10-kubeadm.conf && dpkg -i {deb}"))?;
    machine.run(&format!("test ! -e {CONFIG}")).context("kubeadm writes it")?;
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
    assert_eq!(field("resolvConf")?, "/etc/resolv.conf", "left behind by a resolved that does not run");
    machine.run("echo systemd-resolved.service >/run/active")?;
    assert_eq!(field("resolvConf")?, "/run/systemd/resolve/resolv.conf");

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
    assert_eq!(field("containerRuntimeEndpoint")?, "unix:///run/containerd/containerd.sock");
    machine.run("mkdir -p /run/crio && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/run/crio/crio.sock\")' || nc -lU /run/crio/crio.sock &\nfor i in 1 2 3 4 5 6 7 8 9; do test -S /run/crio/crio.sock && break; sleep 1; done")?;
    assert_eq!(field("containerRuntimeEndpoint")?, "unix:///run/crio/crio.sock");
    assert_eq!(field("cgroupDriver")?, "systemd");
    Ok(())
}

/// An agent on the machine, as the unit would run it.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    async fn start(machine: &Machine, runtime: &FakeRuntime) -> Result<Self> {
        std::fs::hard_link(runtime.socket(), machine.shared().join("cri.sock"))
            .or_else(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })
            .context("share the runtime's socket")?;
        machine.run("mkdir -p /run/containerd && ln -sf /shared/cri.sock /run/containerd/containerd.sock")?;
        machine.run(&format!("echo 'KUBELET_EXTRA_ARGS={NO_CGROUPS}' | sed 's/=\\(.*\\)/=\"\\1\"/' >/etc/default/kubelet"))?;
        let log = std::fs::File::create(machine.shared().join("agent.log"))?;
        let script = format!(
            "echo $$ >/run/kubelet.pid; . /etc/default/kubelet; exec /usr/bin/kubelet --config={CONFIG} $KUBELET_EXTRA_ARGS"
        );
        let mut command = machine.command(&script);
        command.stdout(Stdio::null()).stderr(log);
        let agent = Self(command.spawn()?);
        eventually("the agent answers", LIMIT, async || {
            machine.run("test -S /var/lib/kubelet/agent.sock && kill -0 $(cat /run/kubelet.pid)")?;
            Ok(())
        })
        .await
        .with_context(|| std::fs::read_to_string(machine.shared().join("agent.log")).unwrap_or_default())?;
        Ok(agent)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_replaces_the_agent_only_when_the_new_one_takes_its_configuration() -> Result<()> {
    let (old, new) = packages()?;
    let (machine, _) = installed(old)?;
    let new = machine.share(new)?;
    let runtime = FakeRuntime::start().await?;
    let _agent = Agent::start(&machine, &runtime).await?;
    machine.asked_of_systemd()?;
    let pid = machine.run("cat /run/kubelet.pid")?;

    machine.run(&format!("cp {CONFIG} /root/good && sed -i 's/^podPidsLimit:.*/maxPods: -5/' {CONFIG}"))?;
    let said = machine.fail(&format!("dpkg -i {new}"))?;
    assert!(said.contains("maxPods") && said.contains("-5"), "why: {said}");
    assert!(said.contains("the old agent has not been stopped"), "{said}");
    assert!(said.contains("dpkg --configure kubelet"), "the remedy: {said}");
    assert_eq!(machine.asked_of_systemd()?, ["daemon-reload"]);
    assert_eq!(machine.run("cat /run/kubelet.pid && kill -0 $(cat /run/kubelet.pid)")?, pid);

    machine.run(&format!("cp /root/good {CONFIG} && dpkg --configure kubelet"))?;
    let asked = machine.asked_of_systemd()?;
    assert!(asked.contains(&"restart kubelet.service".to_owned()), "{asked:?}");
    assert!(!asked.iter().any(|line| line.starts_with("stop")), "{asked:?}");

    // Back again, and then one that somebody has stopped: it stays so.
    let old = machine.share(old)?;
    machine.run(&format!("dpkg -i {old}"))?;
    let asked = machine.asked_of_systemd()?;
    assert!(asked.contains(&"restart kubelet.service".to_owned()), "{asked:?}");
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
    machine.run("(sh -c 'echo $$ >/run/kubelet.pid; while :; do sleep 1; done' kubelet --flag-of-old=1 >/dev/null 2>&1 &)")?;
    eventually("the process is there", LIMIT, async || {
        machine.run("tr '\\0' ' ' </proc/$(cat /run/kubelet.pid)/cmdline | grep -q flag-of-old")?;
        Ok(())
    })
    .await?;
    machine.run("echo '#!/bin/sh\nexec /usr/bin/kubelet --flag-of-old=1' >/dev/null")?;
    let said = machine.fail(&format!("dpkg -i {new}"))?;
    assert!(said.contains("the old agent has not been stopped"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_leaves_pods_alone_unless_asked_and_then_ends_them() -> Result<()> {
    let (machine, _) = installed(&packages()?.0)?;
    let deb = machine.share(&packages()?.0)?;
    let runtime = FakeRuntime::start().await?;
    runtime.add_image(BUSYBOX);
    let agent = Agent::start(&machine, &runtime).await?;
    let manifest = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: app, image: {BUSYBOX}, imagePullPolicy: Never, command: [sleep, '1000']}}\n");
    std::fs::write(machine.shared().join("web.yaml"), manifest)?;
    machine.run("cp /shared/web.yaml /etc/kubernetes/manifests/")?;
    eventually("the pod runs", LIMIT, async || {
        ensure!(runtime.running("app").len() == 1, "{:?}", runtime.containers());
        Ok(())
    })
    .await?;
    // What `systemctl stop` would do.
    machine.run("kill $(cat /run/kubelet.pid)")?;
    drop(agent);
    machine.asked_of_systemd()?;

    let said = machine.run("dpkg --remove kubelet")?;
    assert!(said.contains("pods keep running"), "{said}");
    assert!(machine.asked_of_systemd()?.contains(&"stop kubelet.service".to_owned()));
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
        touch $volumes/memory/file /root/data/precious '/root/my data/precious' $pods/u-2/file
        echo log >/var/log/pods/default_web_u-1/app/0.log
        ln -s /var/log/pods/default_web_u-1/app/0.log /var/log/containers/web.log",
    )?;
    machine.run("dpkg --remove kubelet")?;
    let said = machine.fail("dpkg --purge kubelet")?;
    assert!(said.contains("/var/lib/kubelet/pods/u-1/plugins") && said.contains("/var/lib/kubelet/a b"), "{said}");
    assert!(!said.contains("memory"), "{said}");
    machine.run(&format!("test -e /root/data/precious && test -e '/root/my data/precious' && test -e /var/lib/kubelet/pods/u-2/file && test -e {CONFIG}"))?;
    machine.run("! grep -q empty-dir /proc/self/mountinfo").context("the volume is unmounted")?;

    machine.run("umount /var/lib/kubelet/pods/u-1/plugins '/var/lib/kubelet/a b' && dpkg --purge kubelet")?;
    machine.run("test -e /root/data/precious && test -e '/root/my data/precious'")?;
    machine.run("test ! -e /var/lib/kubelet && test ! -e /var/log/pods && test ! -e /var/log/containers")?;
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
    let mut container = machine.command(&format!("exec unshare --mount --propagation private sh -c '{script}'"));
    let container = Agent(container.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    while !machine.shared().join("bound").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = machine.run("dpkg --purge kubelet")?;
    assert!(said.contains("these pods still run") && said.contains("/var/lib/kubelet/pods/u-1"), "{said}");
    assert_eq!(machine.run("ls /var/lib/kubelet /var/lib/kubelet/pods /var/log/pods")?, "/var/lib/kubelet:\npods\n\n/var/lib/kubelet/pods:\nu-1\n\n/var/log/pods:\ndefault_web_u-1\n");
    machine.run("test -d /var/lib/kubelet/pods/u-1/volumes/kubernetes.io~empty-dir/data")?;
    machine.run("! grep -q /var/lib/kubelet/ /proc/self/mountinfo").context("no mount is left")?;
    let seen = machine.run("cat /proc/$(pgrep -xf 'sleep 1000')/root/root/in/memory/file")?;
    assert_eq!(seen, "kept\n", "the container has its own");
    drop(container);
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
    assert!(!items.iter().any(|item| matches!(item.finding, Finding::Fail(_))), "{said:#?}");
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
    let log = std::fs::read_to_string(machine.shared().join("agent.log"))?;
    for field in ["tlsCipherSuites", "authentication", "eventRecordQPS"] {
        assert!(!log.contains(field), "nothing to warn of: {log}");
    }
    Ok(())
}

#[test]
fn install_sh_says_what_is_missing_and_undoes_what_it_did() -> Result<()> {
    let machine = Machine::start()?;
    let systemd = package::repository().join("systemd");
    let tree = machine.shared().join("kubelet");
    std::fs::create_dir(&tree)?;
    ensure!(Command::new("cp").arg("-r").arg(&systemd).arg(&tree).status()?.success());
    std::fs::copy(package::binary()?, tree.join("kubelet-binary"))?;
    let install = |shell: &str, arguments: &str| format!("{shell} /shared/kubelet/systemd/install.sh --binary /shared/kubelet/kubelet-binary {arguments}");
    let everything = "find /usr/local /etc /var/lib /var/log -xdev -newer /shared/start | sort";
    machine.run("touch -d '1 second ago' /shared/start")?;
    let before = machine.run(everything)?;

    let said = machine.fail(&install("dash", ""))?;
    for missing in ["neither containerd nor CRI-O runs", "no pod network", "remedy:", "nothing was changed"] {
        assert!(said.contains(missing), "{missing}: {said}");
    }
    machine.run(&install("dash", "--dry-run"))?;
    assert_eq!(machine.run(everything)?, before, "nothing was changed");

    let socket = std::os::unix::net::UnixListener::bind(machine.shared().join("cri.sock"))?;
    machine.run("mkdir -p /run/containerd && ln -s /shared/cri.sock /run/containerd/containerd.sock && mkdir -p /etc/cni/net.d && cp /shared/kubelet/systemd/10-bridge.conflist /etc/cni/net.d/")?;
    let before = machine.run(everything)?;
    for shell in ["dash", "busybox sh"] {
        machine.asked_of_systemd()?;
        let said = machine.run(&install(shell, ""))?;
        assert!(said.contains("done."), "{said}");
        assert_eq!(machine.asked_of_systemd()?, ["daemon-reload", "enable kubelet.service", "start kubelet.service"]);
        machine.run(&format!("/usr/local/bin/kubelet --version && kubelet validate --config {CONFIG} && grep -q ^ExecStart=/usr/local/bin/kubelet /etc/systemd/system/kubelet.service"))?;
        assert_eq!(machine.run(&format!("stat -c %a {CONFIG} /etc/systemd/system/kubelet.service"))?, "600\n600\n");
        // Again, over the one that is there: as an upgrade, and not with a configuration that it refuses.
        machine.run(&install(shell, ""))?;
        assert!(machine.asked_of_systemd()?.contains(&"restart kubelet.service".to_owned()));
        machine.run(&format!("cp -p {CONFIG} /run/good && echo 'maxPods: -5' >>{CONFIG}"))?;
        let said = machine.fail(&install(shell, ""))?;
        assert!(said.contains("maxPods") && said.contains("nothing was changed"), "{said}");
        assert_eq!(machine.asked_of_systemd()?, Vec::<String>::new());
        machine.run(&format!("cp -p /run/good {CONFIG}"))?;

        let uninstall = format!("{shell} /usr/local/share/kubelet/install.sh --uninstall");
        machine.run(&format!("{uninstall} --dry-run && test -e /usr/local/bin/kubelet"))?;
        machine.asked_of_systemd()?;
        machine.run(&uninstall)?;
        assert_eq!(machine.asked_of_systemd()?, ["disable --now kubelet.service", "daemon-reload"]);
        let touched = ["/etc/systemd/system\n", "/usr/local/bin\n", "/usr/local/share\n", "/etc\n", "/var/lib\n"];
        let mut after = machine.run(everything)?;
        for directory in touched {
            if !before.contains(directory) {
                after = after.replace(directory, "");
            }
        }
        assert_eq!(after, before, "{shell}");
    }

    // What the user has changed, or put there, stays.
    machine.run(&install("dash", ""))?;
    machine.run(&format!("echo '# mine' >>{CONFIG} && touch /etc/kubernetes/manifests/web.yaml"))?;
    let said = machine.run("sh /usr/local/share/kubelet/install.sh --uninstall")?;
    assert!(said.contains("was changed and stays") && said.contains("/etc/kubernetes/manifests is not empty and stays"), "{said}");
    machine.run(&format!("test -e {CONFIG} && test -e /etc/kubernetes/manifests/web.yaml && test ! -e /usr/local/bin/kubelet"))?;
    drop(socket);
    Ok(())
}

#[test]
fn the_bill_of_materials_lists_what_is_linked() -> Result<()> {
    let script = package::repository().join("systemd/package/sbom");
    let output = Command::new(script).arg("x86_64-unknown-linux-gnu").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bill: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(bill["specVersion"], "1.5");
    assert_eq!(bill["metadata"]["component"]["name"], "kubelet");
    let components = bill["components"].as_array().context("components")?;
    let names: Vec<_> = components.iter().filter_map(|c| c["name"].as_str()).collect();
    for linked in ["tokio", "ring", "static-pods", "k8s-openapi", "hickory-resolver", "rust-std"] {
        assert!(names.contains(&linked), "{linked}: {names:?}");
    }
    for other in ["proptest", "prost-derive", "serde_derive", "protox", "windows-sys", "tests"] {
        assert!(!names.contains(&other), "{other} is not in the binary");
    }
    let lock = std::fs::read_to_string(package::repository().join("Cargo.lock"))?;
    for component in components {
        let (name, version) = (&component["name"], &component["version"]);
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        if let Some(sum) = component["hashes"][0]["content"].as_str() {
            assert!(lock.contains(sum), "{component}");
        } else {
            let ours = ["cri-proto", "static-pods", "glibc", "rust-std"];
            assert!(ours.iter().any(|o| name == o), "{name} {version} has no checksum");
        }
    }
    let references: Vec<_> = components.iter().map(|c| &c["bom-ref"]).collect();
    for dependency in bill["dependencies"].as_array().context("dependencies")? {
        for on in dependency["dependsOn"].as_array().context("dependsOn")? {
            assert!(references.contains(&on), "{dependency}");
        }
    }
    Ok(())
}
