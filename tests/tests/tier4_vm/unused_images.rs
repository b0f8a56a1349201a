//! Images that nobody uses, beside those that the runtime itself holds on to: containerd 1.7 and later tell of pinned ones,
//! that of their sandboxes among them; 1.6 tells of none, and what is pinned there is an image like any other.

use anyhow::{Result, ensure};
use tests::images::{BUSYBOX, NAMED_USER, NUMERIC_USER, PAUSE};
use tests::vm::Machine;
use tests::vm::guest::{self, POD};

use super::{CONFIG, GOOD_CONFIG, PODS, Session, containerd_version};

/// Which of the images there are.
fn held(vm: &mut Machine, images: &[&str]) -> Result<Vec<bool>> {
    let names = vm.ok("ctr -n k8s.io images ls -q")?;
    let there = |image: &&str| names.lines().any(|name| name == *image);
    Ok(images.iter().map(there).collect())
}

pub(super) fn unused_images_go_and_pinned_ones_stay(session: &mut Session) -> Result<()> {
    let tells = containerd_version(session)? >= (1, 7);
    let vm = &mut session.vm;
    let label = format!("ctr -n k8s.io images label {NAMED_USER} io.cri-containerd.pinned=");
    vm.ok(&format!("{label}pinned"))?;
    vm.ok(&format!("cp -p {CONFIG} {GOOD_CONFIG}"))?;
    // However much room there is, it is too little.
    vm.ok(&format!(
        "sed -i '/^evictionHard:/d; /^imageMinimumGCAge:/d' {CONFIG}; \
         printf '%s\\n' 'evictionHard: {{imagefs.available: 99.9%}}' 'imageMinimumGCAge: 1s' >>{CONFIG}; \
         systemctl restart kubelet"
    ))?;
    guest::active(vm)?;
    let all = [NUMERIC_USER, NAMED_USER, BUSYBOX, PAUSE];
    let wanted = [false, tells, true, true];
    let gone = vm.eventually("the unused image goes", POD, |vm| {
        let held = held(vm, &all)?;
        ensure!(held == wanted, "{held:?}, not {wanted:?}");
        Ok(())
    });
    // Two looks of the agent.
    let stayed = gone.and_then(|()| {
        std::thread::sleep(std::time::Duration::from_secs(25));
        let held = held(vm, &all)?;
        ensure!(held == wanted, "{held:?} later, not {wanted:?}");
        Ok(())
    });
    vm.ok(&format!(
        "cp -p {GOOD_CONFIG} {CONFIG}; systemctl restart kubelet; ctr -n k8s.io images import /in/images.tar"
    ))?;
    // Without a value it is no label.
    vm.ok(&label)?;
    stayed?;
    guest::active(vm)?;
    guest::all_ready(vm, &PODS).map(drop)
}
