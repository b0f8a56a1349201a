//! The root shell on the second serial port: a command goes in as one line, its output comes back between two marks.
//!
//! The kernel and systemd talk on the first port, so nothing is between the marks but the command's own output. The
//! other end is `guest/usr/local/sbin/serial-shell`.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::Instant;

/// Bytes of a command: as base64 it must fit into the 4096 bytes that a terminal holds until its reader looks.
pub const LONGEST: usize = 2800;
/// How much longer than a command its answer may take: the shell ends the command, and says so.
const MARGIN: Duration = Duration::from_secs(30);

/// What a command answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit status; 124 when it took too long.
    pub status: i32,
    /// Both output streams, without white space at the end.
    pub text: String,
}

/// The machine cannot be asked any more: it ended, restarted, or its shell is silent.
#[derive(Debug)]
pub struct Gone(String);

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Gone {}

/// The shell's end on this machine.
pub struct Serial {
    input: Box<dyn Write + Send>,
    output: Receiver<Vec<u8>>,
    pending: Vec<u8>,
    log: File,
    next: u32,
}

impl Serial {
    /// A shell that is spoken to through `input`, and answers on `output`. Both are copied to `log` as text.
    pub fn new(
        input: impl Write + Send + 'static,
        output: impl Read + Send + 'static,
        log: File,
    ) -> Self {
        let (sender, receiver) = channel();
        thread::spawn(move || copy(output, &sender));
        Self {
            input: Box::new(input),
            output: receiver,
            pending: Vec::new(),
            log,
            next: 1,
        }
    }

    /// Waits until a shell has begun, and answers the id of the boot it belongs to.
    ///
    /// # Errors
    /// [`Gone`] when the machine ends, or nothing has come after `limit`.
    pub fn ready(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.line(deadline).context("wait for the shell")?;
            if let Some(boot) = line.strip_prefix("@@ready ") {
                return Ok(boot.to_owned());
            }
        }
    }

    /// Runs a command of sh, for `limit` at most.
    ///
    /// # Errors
    /// [`Gone`] when no answer came.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Output> {
        ensure!(
            command.len() <= LONGEST,
            "a command of {} bytes is too long for the serial port",
            command.len()
        );
        let id = self.next;
        self.next += 1;
        writeln!(self.log, "\n# {command}").context("write the console's log")?;
        let seconds = limit.as_secs().max(1);
        let line = format!("{id} {seconds} {}\n", STANDARD.encode(command));
        let sent = self.input.write_all(line.as_bytes());
        if let Err(error) = sent.and_then(|()| self.input.flush()) {
            return Err(Gone(format!("the serial port: {error}")).into());
        }
        let output = self
            .answer(id, Instant::now() + limit + MARGIN)
            .with_context(|| format!("run in the machine: {command}"))?;
        writeln!(self.log, "{}\n[{}]", output.text, output.status)
            .context("write the console's log")?;
        Ok(output)
    }

    fn answer(&mut self, id: u32, deadline: Instant) -> Result<Output> {
        let begin = format!("@@begin {id}");
        let end = format!("@@end {id} ");
        let mut text: Option<String> = None;
        loop {
            let line = match self.line(deadline) {
                Ok(line) => line,
                Err(error) => {
                    let so_far = text.unwrap_or_default();
                    return Err(error.context(format!("the output so far: {so_far:?}")));
                }
            };
            if line.starts_with("@@ready ") {
                return Err(Gone("the shell began anew".to_owned()).into());
            }
            match &mut text {
                None if line == begin => text = Some(String::new()),
                None => {}
                Some(text) => {
                    if let Some(status) = line.strip_prefix(&end) {
                        let status = status.trim().parse().context("an exit status")?;
                        let text = text.trim_end().to_owned();
                        return Ok(Output { status, text });
                    }
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        }
    }

    /// The next line, without its end.
    fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.pending.extend(bytes),
                Err(RecvTimeoutError::Timeout) => {
                    bail!(Gone("no answer in time".to_owned()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(Gone("the machine has ended".to_owned()));
                }
            }
        }
    }
}

/// Copies until either end goes.
fn copy(mut from: impl Read, to: &Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.send(buffer[..length].to_vec()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const SOON: Duration = Duration::from_secs(20);

    /// A serial port whose other end says `said`.
    fn serial(said: &[u8]) -> Serial {
        let log = tempfile::tempfile().unwrap();
        Serial::new(std::io::sink(), std::io::Cursor::new(said.to_vec()), log)
    }

    #[test]
    fn output_is_what_stands_between_the_marks_of_the_same_number() {
        let said = b"noise\n@@ready b00t\n\n@@begin 1\na\n b\r\n\n@@end 1 0\n\n@@begin 2\n@@end 1 9\nno end of line\n@@end 2 3\n";
        let mut serial = serial(said);
        assert_eq!(serial.ready(SOON).unwrap(), "b00t");
        let first = serial.run("one", SOON).unwrap();
        assert_eq!((first.status, first.text.as_str()), (0, "a\n b"));
        let second = serial.run("two", SOON).unwrap();
        assert_eq!(second.status, 3);
        assert_eq!(second.text, "@@end 1 9\nno end of line");
    }

    #[test]
    fn a_shell_that_begins_anew_and_a_machine_that_ends_are_gone() {
        for said in [
            &b"@@begin 1\nhalf\n@@ready other\n"[..],
            b"@@begin 1\nhalf\n",
            b"",
        ] {
            let error = serial(said).run("reboot", SOON).unwrap_err();
            assert!(error.downcast_ref::<Gone>().is_some(), "{error:#}");
        }
    }

    #[test]
    fn silence_ends_with_the_limit() {
        let (here, _there) = UnixStream::pair().unwrap();
        let mut serial = Serial::new(std::io::sink(), here, tempfile::tempfile().unwrap());
        let error = serial.ready(Duration::from_millis(20)).unwrap_err();
        assert!(
            format!("{error:#}").contains("no answer in time"),
            "{error:#}"
        );
    }

    #[test]
    fn a_command_goes_out_as_one_line() {
        let (here, there) = UnixStream::pair().unwrap();
        let output = std::io::Cursor::new(b"@@begin 1\n@@end 1 0\n".to_vec());
        let mut serial = Serial::new(here, output, tempfile::tempfile().unwrap());
        serial
            .run("echo a\necho b", Duration::from_secs(7))
            .unwrap();
        drop(serial);
        let mut sent = String::new();
        (&there).read_to_string(&mut sent).unwrap();
        let sent = sent.strip_suffix('\n').unwrap();
        let command = sent.strip_prefix("1 7 ").unwrap();
        assert_eq!(STANDARD.decode(command).unwrap(), b"echo a\necho b");
    }
}
