//! One emulated machine: its disk, its qemu process, and its shell.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::fcntl::{Flock, FlockArg};
use tokio::time::Instant;

use super::System;
use super::image::{self, Image};
use super::serial::{Gone, LONGEST, Output, Serial};

/// From power to a shell, and from there to all units started, on a busy host.
const BOOT: Duration = Duration::from_secs(300);
/// How long a command may take unless its caller knows better.
pub const COMMAND: Duration = Duration::from_secs(120);
/// The directory of a machine's own disk begins with it.
const RUN: &str = "run-";
/// From one ask to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// `mitigations=off`: there is nobody to protect. `net.ifnames=0`: the card is eth0. The modules are of no use here, and
/// take seconds to find that out.
const KERNEL_LINE: &str = "root=/dev/vda rw console=ttyS0 mitigations=off net.ifnames=0 TERM=dumb \
    systemd.show_status=1 systemd.log_color=0 8250.nr_uarts=2 \
    modprobe.blacklist=kvm,kvm_amd,kvm_intel,powernow_k8";

/// A machine of which at most one runs at a time. It ends when it is dropped, and with the thread that started it at the
/// latest; its console log stays.
pub struct Machine {
    system: System,
    image: Image,
    run: tempfile::TempDir,
    log: PathBuf,
    process: Option<(Child, Serial)>,
    boot: String,
    _one_at_a_time: Flock<File>,
}

impl Machine {
    /// A machine that is off, with a disk of its own and `files` (name and source) in `/in`.
    ///
    /// # Errors
    /// When the image, the disk or the files cannot be made or read.
    pub fn new(system: System, files: &[(&str, &Path)]) -> Result<Self> {
        let vm = image::directory()?;
        let lock = File::create(vm.join("lock")).context("create the lock of machines")?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .context("wait for another machine to end")?;
        remove_leftovers(&vm)?;
        let image = image::ensure(system)?;
        let run = tempfile::Builder::new()
            .prefix(RUN)
            .tempdir_in(&vm)
            .context("a directory for the machine")?;
        let copied = Command::new("cp")
            .args(["--reflink=auto", "--sparse=always"])
            .args([&image.disk, &run.path().join("disk.raw")])
            .status()
            .context("run cp")?;
        ensure!(copied.success(), "copy the disk: {copied}");
        archive(&run.path().join("in.tar"), files)?;
        let log = vm.join(format!("{system}-console.log"));
        File::create(&log).with_context(|| format!("create {}", log.display()))?;
        Ok(Self {
            system,
            image,
            run,
            log,
            process: None,
            boot: String::new(),
            _one_at_a_time: lock,
        })
    }

    /// What it runs.
    #[must_use]
    pub fn system(&self) -> System {
        self.system
    }

    /// Everything that it said.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Turns it on, and waits until its units have started and `/in` is there.
    ///
    /// # Errors
    /// When it is on, qemu does not start, or the system does not come up.
    pub fn power_on(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the machine is on");
        let log = OpenOptions::new()
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        let error = log.try_clone().context("the console's log")?;
        let mut child = self.qemu().stderr(error).spawn().context("start qemu")?;
        let input = child.stdin.take().context("qemu's standard input")?;
        let output = child.stdout.take().context("qemu's standard output")?;
        self.process = Some((child, Serial::new(input, output, log)));
        self.up()
    }

    fn qemu(&self) -> Command {
        // setpriv: a test that is killed takes its machine with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-monitor", "none", "-machine", "q35"]);
        // Without cmpxchg16b, which the emulator of QEMU 7.2 gives back with wrong flags: the allocator of Linux 6.12 goes
        // by them, and ends in a double fault.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"]);
        command.args(["-m", "2048", "-smp", "2"]);
        command.args(["-device", "virtio-rng-pci"]);
        command.args(["-netdev", "user,id=net,restrict=on"]);
        command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        command.arg("-kernel").arg(&self.image.kernel);
        command.arg("-initrd").arg(&self.image.initrd);
        command.args(["-append", KERNEL_LINE]);
        let console = self.log.display();
        command.args(["-chardev", &format!("file,id=log,append=on,path={console}")]);
        command.args(["-serial", "chardev:log", "-serial", "stdio"]);
        for (file, options) in [("disk.raw", "cache=unsafe"), ("in.tar", "readonly=on")] {
            let file = self.run.path().join(file);
            let drive = format!("if=virtio,format=raw,{options},file={}", file.display());
            command.args(["-drive", &drive]);
        }
        // Keys for the test's terminal are not for the machine.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// Waits for the shell of a new boot, and for its units.
    fn up(&mut self) -> Result<()> {
        let start = Instant::now();
        let boot = self.serial()?.ready(BOOT)?;
        ensure!(
            boot != self.boot,
            "the shell began anew, the machine did not"
        );
        self.boot = boot;
        // Its status tells whether a unit failed; that is the tests' to judge.
        self.run("systemctl is-system-running --wait", BOOT)?;
        self.ok("[ -d /in ] || { mkdir /in && tar -xf /dev/vdb -C /in; }")?;
        println!("{}: up after {:.0?}", self.system, start.elapsed());
        Ok(())
    }

    fn serial(&mut self) -> Result<&mut Serial> {
        let (_, serial) = self.process.as_mut().context("the machine is off")?;
        Ok(serial)
    }

    /// Runs a command of sh as root, for `limit` at most.
    ///
    /// # Errors
    /// [`Gone`] when the machine does not answer; whatever status it ends with is none.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Output> {
        self.serial()?.run(command, limit)
    }

    /// Runs a command that is to succeed, and answers its output.
    ///
    /// # Errors
    /// When it ends with another status than 0, with its output.
    pub fn ok(&mut self, command: &str) -> Result<String> {
        self.ok_within(COMMAND, command)
    }

    /// As [`Machine::ok`], with its own limit.
    ///
    /// # Errors
    /// As [`Machine::ok`].
    pub fn ok_within(&mut self, limit: Duration, command: &str) -> Result<String> {
        let Output { status, text } = self.run(command, limit)?;
        ensure!(status == 0, "{command}\nended with {status}: {text}");
        Ok(text)
    }

    /// Asks until the answer is `Ok`.
    ///
    /// # Errors
    /// When it is not so within `limit`, with the last error; at once when the machine is [`Gone`].
    pub fn eventually<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            match ask(self) {
                Ok(value) => return Ok(value),
                Err(error) if error.downcast_ref::<Gone>().is_some() => {
                    return Err(error.context(format!("waited for: {what}")));
                }
                Err(error) if start.elapsed() >= limit => {
                    return Err(error.context(format!("not within {limit:?}: {what}")));
                }
                Err(_) => sleep(PAUSE),
            }
        }
    }

    /// Writes a file, by rename, so that whoever watches its directory sees it whole.
    ///
    /// # Errors
    /// When the machine cannot.
    pub fn put(&mut self, path: &str, content: &str) -> Result<()> {
        // Not in the same directory: a watched one would show it.
        let scratch = "/var/tmp/put";
        self.ok(&format!(": >{scratch}"))?;
        let mut rest = content;
        while !rest.is_empty() {
            let mut end = rest.len().min(LONGEST / 2);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let piece = rest[..end].replace('\'', r"'\''");
            self.ok(&format!("printf %s '{piece}' >>{scratch}"))?;
            rest = &rest[end..];
        }
        self.ok(&format!("chmod 644 {scratch} && mv {scratch} {path}"))
            .map(drop)
    }

    /// Takes its power away, in the middle of whatever it does.
    ///
    /// # Errors
    /// When it is off.
    pub fn cut_power(&mut self) -> Result<()> {
        let (mut child, _) = self.process.take().context("the machine is off")?;
        child.kill().context("kill qemu")?;
        child.wait().context("wait for qemu").map(drop)
    }

    /// Lets it restart by its own command, and waits until its units have started.
    ///
    /// # Errors
    /// When it does not come up again.
    pub fn reboot(&mut self) -> Result<()> {
        // It may be gone before it answers.
        match self.run("systemctl reboot", COMMAND) {
            Ok(output) => ensure!(output.status == 0, "systemctl reboot: {}", output.text),
            Err(error) if error.downcast_ref::<Gone>().is_none() => return Err(error),
            Err(_) => {}
        }
        self.up()
    }

    /// The end of the console's log, for a message about a failure.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log_tail(&self, lines: usize) -> Result<String> {
        let log = fs::read(&self.log).context("read the console's log")?;
        let log = String::from_utf8_lossy(&log);
        let all: Vec<_> = log.lines().collect();
        let from = all.len().saturating_sub(lines);
        Ok(all[from..].join("\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.process.is_some()
            && let Err(error) = self.cut_power()
        {
            eprintln!("{}: {error:#}", self.system);
        }
    }
}

/// Removes what a killed run has left. Nobody else is at work: the lock is held.
fn remove_leftovers(vm: &Path) -> Result<()> {
    for entry in fs::read_dir(vm).context("look for leftovers")? {
        let entry = entry.context("look for leftovers")?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(RUN) || name.starts_with(image::UNFINISHED) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn archive(path: &Path, files: &[(&str, &Path)]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut tar = tar::Builder::new(file);
    for (name, source) in files {
        tar.append_path_with_name(source, name)
            .with_context(|| format!("pack {} for the machine", source.display()))?;
    }
    let file = tar.into_inner().context("finish the machine's files")?;
    // A disk has whole sectors.
    let length = file
        .metadata()
        .context("size of the machine's files")?
        .len();
    file.set_len(length.next_multiple_of(1 << 20))
        .map_err(|error| anyhow!(error).context("round the machine's files up"))
}
