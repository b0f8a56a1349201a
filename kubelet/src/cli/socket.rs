//! One request to the agent.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::CliError;

/// How long the agent may be silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer's head, and of a refusal's words.
const MOST_HEAD: u64 = 16 * 1024;

/// The body of the answer to GET `path`.
///
/// # Errors
/// When nobody answers, or not with 200.
pub(super) fn get(socket: &Path, path: &str) -> Result<impl Read + use<>, CliError> {
    let silent = |error| CliError::Silent(socket.to_owned(), error);
    let mut stream = connect(socket).map_err(silent)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(silent)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(silent)?;
    // HTTP/1.0, so that the body is not in chunks and ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(silent)?;
    let mut answer = BufReader::new(stream);
    let status = head(&mut answer).map_err(silent)?;
    match status.split(' ').nth(1) {
        Some("200") => Ok(answer),
        Some(_) => {
            let mut words = String::new();
            answer
                .take(MOST_HEAD)
                .read_to_string(&mut words)
                .map_err(silent)?;
            Err(CliError::Refused(format!(
                "{}: {}",
                status.trim(),
                words.trim()
            )))
        }
        None => Err(CliError::Garbled(format!("it begins with {status:?}"))),
    }
}

/// However long the path is: a socket's address has room for 107 bytes.
pub(super) fn connect(socket: &Path) -> io::Result<UnixStream> {
    match UnixStream::connect(socket) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
        connected => return connected,
    }
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = std::fs::File::open(directory)?;
    let through = format!("/proc/self/fd/{}", directory.as_raw_fd());
    UnixStream::connect(Path::new(&through).join(name))
}

/// Reads up to the end of the head; its first line.
fn head(answer: &mut impl io::BufRead) -> io::Result<String> {
    let mut head = answer.take(MOST_HEAD);
    let mut status = String::new();
    head.read_line(&mut status)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    Ok(status)
}
