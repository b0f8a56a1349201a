//! `kubelet exec`, `attach`, `cp` and `port-forward` as somebody at the node's own shell uses them, on real containers.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tests::agent::{Agent, SOCKET};
use tests::containerd::Node;
use tests::scenario::with_agent;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(90);

/// What a subcommand has said, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

struct Shell<'a> {
    node: &'a Node,
    agent: &'a Agent<'a>,
}

impl Shell<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.agent.binary());
        let (name, rest) = words.split_first().unwrap_or((&"", &[]));
        let root = format!("--root-dir={}", self.node.path("kubelet").display());
        command.arg(name).arg(root).args(rest);
        command
    }

    fn run(&self, words: &[&str], input: &str) -> Result<Said> {
        let mut command = self.command(words);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let mut stdin = process.stdin.take().context("standard input")?;
        // One that does not want it may have ended.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let done = process.wait_with_output()?;
        let said = Said {
            code: done.status.code(),
            out: String::from_utf8(done.stdout)?,
            err: String::from_utf8(done.stderr)?,
        };
        println!("$ kubelet {}\n{}{}", words.join(" "), said.out, said.err);
        Ok(said)
    }
}

fn expect(said: &Said, code: i32, out: &str, err: &str) -> Result<()> {
    let expected = Said {
        code: Some(code),
        out: out.to_owned(),
        err: err.to_owned(),
    };
    ensure!(*said == expected, "{said:?}\nwanted {expected:?}");
    Ok(())
}

#[test]
fn commands_are_run_and_attached_to() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        node.put("shell.yaml", SHELL)?;
        agent.ready("shell", LIMIT).await?;
        let shell = Shell { node, agent };
        let run = |words: &[&str], input: &str| shell.run(words, input);

        let script = "echo out; echo err >&2; exit 3";
        let three = run(
            &["exec", "shell", "-c", "main", "--", "sh", "-c", script],
            "",
        )?;
        let said = "err\ncommand terminated with exit code 3\n";
        expect(&three, 3, "out\n", said)?;
        // Standard input has an end.
        let cat = run(
            &["exec", "-i", "shell-node", "-c", "main", "--", "wc", "-c"],
            "1234567",
        )?;
        expect(&cat, 0, "7\n", "")?;
        let defaulted = "Defaulted container \"main\" out of: main, reader\n";
        let first = run(
            &["exec", "pod/shell", "--", "echo", "a  b", "--", "-c"],
            "unread",
        )?;
        expect(&first, 0, "a  b -- -c\n", defaulted)?;
        let quiet = run(&["exec", "-q", "-n", "default", "shell", "--", "true"], "")?;
        expect(&quiet, 0, "", "")?;
        let no_terminal = run(&["exec", "-it", "shell", "-c", "main", "--", "tty"], "")?;
        let told = "Unable to use a TTY - input is not a terminal or the right kind of file\n\
            command terminated with exit code 1\n";
        expect(&no_terminal, 1, "not a tty\n", told)?;

        let none = run(&["exec", "nobody", "--", "true"], "")?;
        let told = "Error from server (NotFound): pods \"nobody\" not found\n";
        expect(&none, 1, "", told)?;
        let other = run(&["exec", "shell", "-c", "other", "--", "true"], "")?;
        let told = "error: container other is not valid for pod shell-node out of: main, reader\n";
        expect(&other, 1, "", told)?;
        let missing = run(&["exec", "shell", "-c", "main", "--", "/no/such"], "")?;
        ensure!(
            missing.code == Some(1)
                && missing.err.starts_with("error: Internal error occurred: ")
                && missing.err.contains("no such file"),
            "{missing:?}"
        );
        let wrong = run(&["exec", "shell", "true"], "")?;
        ensure!(wrong.code == Some(64), "{wrong:?}");

        let mut attached = shell.command(&["attach", "-i", "-q", "shell", "-c", "reader"]);
        let attached = attached.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut attached = attached.spawn()?;
        let mut stdin = attached.stdin.take().context("standard input")?;
        let mut stdout = attached.stdout.take().context("standard output")?;
        stdin.write_all(b"to the first process\n")?;
        let heard = "heard to the first process\n";
        let mut read = vec![0; heard.len()];
        stdout.read_exact(&mut read)?;
        ensure!(read == heard.as_bytes(), "{read:?}");
        attached.kill()?;
        attached.wait()?;

        // Whoever is neither root nor the agent is not answered, even where the file would let them.
        let socket = node.path(SOCKET);
        let everybody = fs::Permissions::from_mode(0o666);
        fs::set_permissions(&socket, everybody)?;
        let mut open = Vec::new();
        for directory in socket.ancestors().skip(1) {
            let before = fs::metadata(directory)?.permissions();
            if before.mode() & 1 == 0 {
                fs::set_permissions(directory, fs::Permissions::from_mode(before.mode() | 1))?;
                open.push((directory.to_owned(), before));
            }
        }
        let mut nobody = shell.command(&["exec", "-q", "shell", "--", "id"]);
        let nobody = nobody.uid(65_534).gid(65_534).output()?;
        for (directory, before) in open {
            fs::set_permissions(directory, before)?;
        }
        let told = String::from_utf8(nobody.stderr)?;
        ensure!(
            nobody.status.code() == Some(1) && told.contains("only root is answered"),
            "{} {told}",
            nobody.status
        );
        Ok(())
    });
}

#[test]
fn a_terminal_is_the_containers_for_a_while() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        node.put("shell.yaml", SHELL)?;
        agent.ready("shell", LIMIT).await?;
        let shell = Shell { node, agent };
        // Its size comes after it has begun: the script looks again and again.
        let script = "tty; while sleep 0.3; do stty size; done < /dev/tty & while true; do read a && echo \"<$a>\"; test \"$a\" != end || exit 4; done";
        let words = [
            "exec", "-it", "shell", "-c", "main", "--", "sh", "-c", script,
        ];

        let mut terminal = Terminal::with(&shell, &words)?;
        terminal.until("/dev/pts/").await?;
        terminal.until("24 80\r\n").await?;
        ensure!(!terminal.is_cooked()?, "keys are echoed on this side");
        resize(&terminal.ours, 101, 33)?;
        terminal.until("33 101\r\n").await?;
        terminal.write("hello\n")?;
        terminal.until("<hello>\r\n").await?;
        terminal.write("end\n")?;
        let ended = terminal.process.wait()?;
        ensure!(ended.code() == Some(4), "{ended}");
        ensure!(terminal.is_cooked()?, "the terminal is as it was");

        // Whichever way it ends.
        for signal in [
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
        ] {
            let mut terminal = Terminal::with(&shell, &words)?;
            terminal.until("24 80\r\n").await?;
            ensure!(!terminal.is_cooked()?, "keys are echoed on this side");
            kill(Pid::from_raw(terminal.process.id().try_into()?), signal)?;
            let ended = terminal.process.wait()?;
            ensure!(ended.code() == Some(128 + signal as i32), "{ended}");
            ensure!(ended.signal().is_none(), "{ended}");
            ensure!(terminal.is_cooked()?, "the terminal is as it was");
        }

        // What is attached to is let go by two keys, and runs on.
        node.put("screen.yaml", SCREEN)?;
        agent.ready("screen", LIMIT).await?;
        let words = ["attach", "-it", "screen"];
        for _ in 0..2 {
            let mut terminal = Terminal::with(&shell, &words)?;
            terminal.until("prompt, try pressing enter.\r\n").await?;
            terminal.write("again\r")?;
            terminal.until("<again>").await?;
            terminal.write("\x10\x11")?;
            terminal.until("Session ended, resume using").await?;
            let ended = terminal.process.wait()?;
            ensure!(ended.success(), "{ended}");
            ensure!(terminal.is_cooked()?, "the terminal is as it was");
        }
        Ok(())
    });
}

#[test]
fn files_are_copied_into_a_container_and_out_of_it() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        node.put("shell.yaml", SHELL)?;
        agent.ready("shell", LIMIT).await?;
        let shell = Shell { node, agent };
        let run = |words: &[&str]| shell.run(words, "");
        let inside =
            |script: &str| shell.run(&["exec", "-q", "shell", "--", "sh", "-c", script], "");
        let place = node.path("copied");
        fs::create_dir_all(place.join("from/deep/empty"))?;
        fs::write(place.join("from/one"), "one")?;
        let large = vec![b'x'; 3_000_000];
        fs::write(place.join("from/deep/large"), &large)?;
        symlink("one", place.join("from/link"))?;
        let path = |name: &str| place.join(name).display().to_string();
        let main = ["-c", "main"];
        let cp = |from: &str, to: &str| run(&[&["cp", from, to][..], &main].concat());

        expect(&cp(&path("from/one"), "shell:/tmp/new")?, 0, "", "")?;
        expect(&cp(&path("from/one"), "default/shell:/tmp")?, 0, "", "")?;
        expect(&cp(&path("from"), "shell:/tmp/tree")?, 0, "", "")?;
        let seen = inside(
            "cd /tmp; cat new one tree/one; readlink tree/link; ls tree/deep; wc -c < tree/deep/large",
        )?;
        expect(&seen, 0, "oneoneoneone\nempty\nlarge\n3000000\n", "")?;

        expect(
            &cp("shell:/tmp/new", &path("back"))?,
            0,
            "",
            "tar: removing leading '/' from member names\n",
        )?;
        ensure!(fs::read_to_string(path("back"))? == "one", "back");
        let tree = cp("shell:/tmp/tree", &path("tree"))?;
        ensure!(tree.code == Some(0), "{tree:?}");
        let skipped = "warning: skipping symlink: \"tmp/tree/link\" -> \"one\"\n";
        ensure!(tree.err.contains(skipped), "{tree:?}");
        ensure!(fs::read(path("tree/deep/large"))? == large, "the large one");
        ensure!(place.join("tree/deep/empty").is_dir(), "the empty one");
        ensure!(!place.join("tree/link").exists(), "the link");
        let into = cp("shell:/tmp/new", &path("tree"))?;
        ensure!(into.code == Some(0), "{into:?}");
        ensure!(fs::read_to_string(path("tree/new"))? == "one", "into");

        // A container whose tar is its own.
        let evil = "rm /bin/tar; printf '#!/bin/sh\\nexec cat /tmp/evil\\n' > /bin/tar; chmod 755 /bin/tar";
        fs::create_dir(place.join("evil"))?;
        let archive = {
            let mut archive = tar::Builder::new(Vec::new());
            for name in ["srv/fine", "srv/..///../outside"] {
                let mut header = tar::Header::new_gnu();
                header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
                header.set_size(3);
                header.set_mode(0o4777);
                header.set_entry_type(tar::EntryType::Regular);
                header.set_cksum();
                archive.append(&header, &b"hey"[..])?;
            }
            archive.into_inner()?
        };
        fs::write(path("archive"), archive)?;
        expect(&cp(&path("archive"), "shell:/tmp/evil")?, 0, "", "")?;
        let replaced = inside(evil)?;
        ensure!(replaced.code == Some(0), "{replaced:?}");
        let hostile = cp("shell:/srv", &path("evil/to"))?;
        let told =
            "warning: file \"srv/..///../outside\" is outside target destination, skipping\n";
        expect(&hostile, 0, "", told)?;
        let mut found: Vec<_> = fs::read_dir(place.join("evil"))?.collect::<Result<_, _>>()?;
        ensure!(
            found.len() == 1 && found.remove(0).file_name() == "to",
            "{found:?}"
        );
        ensure!(fs::read_to_string(path("evil/to/fine"))? == "hey", "fine");
        let corrupted = cp("shell:/other", &path("evil/other"))?;
        expect(&corrupted, 1, "", "error: tar contents corrupted\n")?;

        let told = format!(
            "error: {} doesn't exist in local filesystem\n",
            path("none")
        );
        expect(&cp(&path("none"), "shell:/tmp/x")?, 1, "", &told)?;
        let told = "error: one of src or dest must be a local file specification\n";
        expect(&cp("shell:/a", "shell:/b")?, 1, "", told)?;
        let told = "error: one of src or dest must be a remote file specification\n";
        expect(&cp("a", "b")?, 1, "", told)
    });
}

/// A terminal with a subcommand on it, of 24 rows and 80 columns.
struct Terminal {
    ours: File,
    theirs: OwnedFd,
    process: Child,
    seen: String,
}

impl Terminal {
    fn with(shell: &Shell<'_>, words: &[&str]) -> Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?.into_string()?;
        let mut options = File::options();
        let theirs: OwnedFd = options.read(true).write(true).open(name)?.into();
        // Its own session, whose terminal this is.
        let inner = shell.command(words);
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(inner.get_program())
            .args(inner.get_args());
        command.stdin(theirs.try_clone()?);
        command.stdout(theirs.try_clone()?);
        command.stderr(theirs.try_clone()?);
        let ours = File::from(ours);
        resize(&ours, 80, 24)?;
        Ok(Self {
            ours,
            theirs,
            process: command.spawn().context("setsid (util-linux)")?,
            seen: String::new(),
        })
    }

    /// Whether lines are edited and echoed on this side, as before.
    fn is_cooked(&self) -> Result<bool> {
        let modes = tcgetattr(&self.theirs)?.local_modes;
        Ok(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG))
    }

    fn write(&mut self, keys: &str) -> Result<()> {
        Ok(self.ours.write_all(keys.as_bytes())?)
    }

    /// Reads until `text` is shown.
    async fn until(&mut self, text: &str) -> Result<()> {
        let what = format!("the terminal shows {text:?}");
        eventually(&what, LIMIT, async || {
            while let Some(bytes) = self.more()? {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
            let at = self.seen.find(text);
            let at = at.with_context(|| format!("it shows {:?}", self.seen))?;
            self.seen.drain(..at + text.len());
            Ok(())
        })
        .await
    }

    /// What there is to read; none where there is nothing.
    fn more(&mut self) -> Result<Option<Vec<u8>>> {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut ready = [PollFd::new(&self.ours, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if poll(&mut ready, Some(&now))? == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; 4096];
        let read = self.ours.read(&mut bytes)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }
}

fn resize(terminal: &File, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const SHELL: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: shell
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
  - name: reader
    image: busybox:1.36
    stdin: true
    command: ["sh", "-c", "trap 'exit 0' TERM; while read line; do echo heard $line; done; sleep 100000 & wait"]
"#;

const SCREEN: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: screen
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    stdin: true
    tty: true
    command: ["sh", "-c", "trap 'exit 0' TERM; while true; do read a && echo \"<$a>\"; done"]
"#;
