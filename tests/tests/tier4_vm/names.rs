//! A name that only resolved knows, looked up by the static binary on a system whose NSS has libnss-resolve: a static C
//! library that loaded that module would crash.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::vm::guest;

use super::{PODS, Session};

/// A name server in the Perl that every Debian has: each question for an address is answered with this machine's.
const SERVER: &str = r#"
use strict; use Socket;
socket(my $s, PF_INET, SOCK_DGRAM, 0) or die; bind($s, sockaddr_in(53, inet_aton("10.0.2.15"))) or die "bind: $!";
while (my $from = recv($s, my $q, 1500, 0)) {
    my ($name, $end) = (substr($q, 12), 12);
    $end += 1 + ord(substr($q, $end, 1)) while ord(substr($q, $end, 1));
    my $kind = unpack("n", substr($q, $end + 1, 2));
    my $question = substr($q, 12, $end + 5 - 12);
    my $answer = $kind == 1 ? "\xc0\x0c" . pack("nnNn", 1, 1, 60, 4) . inet_aton("10.0.2.15") : "";
    send($s, substr($q, 0, 2) . pack("nnnnn", 0x8580, 1, length($answer) ? 1 : 0, 0, 0) . $question . $answer, 0, $from);
}
"#;

const NAME: &str = "web.vm-names.test";

const POD_BY_NAME: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: named}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [httpd, -f, -p, '8099', -h, /www]
    readinessProbe:
      httpGet: {host: web.vm-names.test, port: 8099, path: /}
      periodSeconds: 1
      timeoutSeconds: 10
";

pub(super) fn the_static_binary_resolves_names(session: &mut Session) -> Result<()> {
    if !session.system.has_resolved() {
        return Ok(());
    }
    let vm = &mut session.vm;
    let linked = vm.run("ldd /usr/bin/kubelet", Duration::from_secs(30))?;
    ensure!(
        linked.text.contains("not a dynamic") || linked.text.contains("statically linked"),
        "{}",
        linked.text
    );
    let hosts = vm.ok("grep ^hosts: /etc/nsswitch.conf")?;
    ensure!(hosts.contains("resolve"), "{hosts}");
    vm.put("/root/names.pl", SERVER)?;
    vm.ok(
        "systemctl stop names 2>/dev/null; systemd-run --quiet --unit=names perl /root/names.pl",
    )?;
    vm.ok("resolvectl dns eth0 10.0.2.15 && resolvectl domain eth0 '~.'")?;
    vm.eventually("resolved knows the name", Duration::from_secs(60), |vm| {
        vm.ok(&format!("getent ahostsv4 {NAME}"))
    })?;
    let resolv = vm.ok("readlink -f /etc/resolv.conf")?;
    ensure!(resolv.starts_with("/run/systemd/resolve/"), "{resolv}");
    let before = guest::unit(vm, "MainPID")?;
    session.manifest("named", POD_BY_NAME)?;
    let mut with_named = PODS.to_vec();
    with_named.push("default/named-node");
    let ready = guest::all_ready(&mut session.vm, &with_named);
    let vm = &mut session.vm;
    // What pods are given is the list of real servers, not resolved's address on this machine's loopback.
    let given = vm.ok("cat /proc/$(pgrep -o -f 'httpd -f -p 8099')/root/etc/resolv.conf");
    vm.ok("rm /etc/kubernetes/manifests/named.yaml")?;
    ready?;
    let given = given?;
    ensure!(
        given.contains("nameserver 10.0.2.15") && !given.contains("127.0.0.53"),
        "the pod's resolv.conf: {given}"
    );
    guest::all_ready(vm, &PODS)?;
    let after = guest::unit(vm, "MainPID")?;
    ensure!(before == after, "the agent was restarted");
    Ok(())
}
