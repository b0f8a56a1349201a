//! One request to the agent.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::CliError;

/// How long the agent may be silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer's head, and of a refusal's words.
const MOST_HEAD: u64 = 16 * 1024;
/// Bytes of the line before a chunk.
const MOST_CHUNK_LINE: u64 = 1024;

/// The body of the answer to GET `path`.
///
/// # Errors
/// When nobody answers, or not with 200.
pub(super) fn get(socket: &Path, path: &str) -> Result<Body, CliError> {
    ask(socket, path, Some(PATIENCE))
}

/// The same of an answer that goes on for as long as something happens: the agent may be silent for any time.
///
/// # Errors
/// When nobody answers, or not with 200.
pub(super) fn follow(socket: &Path, path: &str) -> Result<Body, CliError> {
    ask(socket, path, None)
}

fn ask(socket: &Path, path: &str, patience: Option<Duration>) -> Result<Body, CliError> {
    let silent = |error| CliError::Silent(socket.to_owned(), error);
    let mut stream = connect(socket).map_err(silent)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(silent)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(silent)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(silent)?;
    let mut answer = BufReader::new(stream);
    let head = Head::read(&mut answer).map_err(silent)?;
    let mut body = Body {
        socket: socket.to_owned(),
        answer,
        framing: head.framing,
    };
    match head.status.split(' ').nth(1) {
        Some("200") => {
            let stream = body.answer.get_ref();
            stream.set_read_timeout(patience).map_err(silent)?;
            Ok(body)
        }
        Some(_) => {
            let mut words = Vec::new();
            let read = body.by_ref().take(MOST_HEAD).read_to_end(&mut words);
            read.map_err(|error| body.error(error))?;
            let words = String::from_utf8_lossy(&words);
            Err(CliError::Refused(match words.trim() {
                "" => head.status.trim().to_owned(),
                words => words.to_owned(),
            }))
        }
        None => Err(CliError::Garbled(format!(
            "it begins with {:?}",
            head.status
        ))),
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

/// What comes before a body.
struct Head {
    /// Its first line.
    status: String,
    framing: Framing,
}

impl Head {
    fn read(answer: &mut impl io::BufRead) -> io::Result<Self> {
        let mut head = answer.take(MOST_HEAD);
        let mut status = String::new();
        head.read_line(&mut status)?;
        let mut framing = Framing::Open;
        let mut line = String::new();
        while head.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
            let field = line.trim_end().to_ascii_lowercase();
            match field
                .split_once(':')
                .map(|(name, value)| (name, value.trim()))
            {
                Some(("content-length", length)) => {
                    let length = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
                    framing = Framing::Counted(length);
                }
                Some(("transfer-encoding", "chunked")) => framing = Framing::Chunked(Chunk::Before),
                _ => {}
            }
            line.clear();
        }
        Ok(Self { status, framing })
    }
}

/// How the end of a body is told.
enum Framing {
    /// By the end of the connection.
    Open,
    /// So many bytes are left.
    Counted(u64),
    Chunked(Chunk),
}

/// Where in a body of chunks the reader is.
enum Chunk {
    /// Before the first one.
    Before,
    /// So many bytes of one are left.
    Within(u64),
    /// Behind the last one.
    Over,
}

/// The body of an answer, which comes as the agent sends it. One that breaks off is an error of
/// [`io::ErrorKind::UnexpectedEof`].
pub(super) struct Body {
    socket: PathBuf,
    answer: BufReader<UnixStream>,
    framing: Framing,
}

impl Body {
    /// What it means that it could not be read.
    pub(super) fn error(&self, error: io::Error) -> CliError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => CliError::Cut,
            _ => CliError::Silent(self.socket.clone(), error),
        }
    }

    /// How many bytes may be read now; 0 at the end.
    fn left(&mut self) -> io::Result<u64> {
        let chunk = match &mut self.framing {
            Framing::Open => return Ok(u64::MAX),
            Framing::Counted(left) => return Ok(*left),
            Framing::Chunked(chunk) => chunk,
        };
        let first = match chunk {
            Chunk::Over => return Ok(0),
            Chunk::Within(left) if *left > 0 => return Ok(*left),
            Chunk::Within(_) => false,
            Chunk::Before => true,
        };
        if !first {
            // The end of the line that the chunk before is.
            chunk_line(&mut self.answer)?;
        }
        let line = chunk_line(&mut self.answer)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        *chunk = match size {
            0 => Chunk::Over,
            size => Chunk::Within(size),
        };
        Ok(size)
    }
}

fn chunk_line(answer: &mut impl io::BufRead) -> io::Result<String> {
    let mut line = String::new();
    answer.take(MOST_CHUNK_LINE).read_line(&mut line)?;
    match line.ends_with('\n') {
        true => Ok(line),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left()?;
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.answer.read(&mut buffer[..most])?;
        match &mut self.framing {
            Framing::Open => {}
            _ if read == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Framing::Counted(left) | Framing::Chunked(Chunk::Within(left)) => *left -= read as u64,
            Framing::Chunked(Chunk::Before | Chunk::Over) => {}
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
