//! `/logs`: the files below `/var/log`, as Go's `http.FileServer` shows them.
//!
//! The directory is held by handle, and no path leads out of it: neither a step back, nor a link that somebody who may
//! write there has planted. What is no file and no directory is not opened for reading.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use jiff::Timestamp;
use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{not_found, text};
use crate::connections::{escaped, unescaped};

/// What one read takes, and as much waits for a client that is slow.
const CHUNK: usize = 16 << 10;
/// Bytes that a file's kind is told by (as Go).
const SNIFFED: usize = 512;

/// `/logs` of the directory `root`.
pub(super) fn routes(root: PathBuf) -> Router {
    let root: Arc<Path> = root.into();
    let answer = move |request: Request| answer(root.clone(), request);
    Router::new()
        .route("/logs", get(answer.clone()))
        .route("/logs/", get(answer.clone()))
        .route("/logs/{*path}", get(answer))
}

async fn answer(root: Arc<Path>, request: Request) -> Response {
    let asked = request.uri().path();
    let below = asked.strip_prefix("/logs").unwrap_or(asked);
    let Some(path) = unescaped(below) else {
        return not_found().await;
    };
    let looked = tokio::task::spawn_blocking(move || look(&root, &path)).await;
    match looked {
        Ok(Ok(Found::Moved(place))) => moved(&place),
        Ok(Ok(Found::Directory(listing))) => {
            let mut response = listing.into_response();
            set(
                &mut response,
                header::CONTENT_TYPE,
                "text/html; charset=utf-8",
            );
            response
        }
        Ok(Ok(Found::File(file))) => send(file),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            text(StatusCode::FORBIDDEN, "403 Forbidden\n")
        }
        Ok(Err(error)) => {
            tracing::debug!(
                err = &error as &dyn std::error::Error,
                asked,
                "Cannot show a log"
            );
            not_found().await
        }
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "500 Internal Server Error\n",
        ),
    }
}

enum Found {
    /// Asked for by a path that its kind does not have: the right one, from there.
    Moved(String),
    Directory(String),
    File(LogFile),
}

struct LogFile {
    file: File,
    bytes: u64,
    modified: Option<HeaderValue>,
    kind: &'static str,
}

/// What is at `path` below `root`.
fn look(root: &Path, path: &str) -> io::Result<Found> {
    let directory = fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let name = path.trim_matches('/');
    let within = if name.is_empty() { "." } else { name };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // Without reading it: a device or a pipe does something when it is opened.
    let handle = fs::openat2(
        &directory,
        within,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?;
    let status = File::from(handle).metadata()?;
    let last = name.rsplit('/').next().unwrap_or_default();
    if status.is_dir() && !path.ends_with('/') {
        let from = if last.is_empty() { "logs" } else { last };
        return Ok(Found::Moved(format!("{}/", escaped(from))));
    }
    if !status.is_dir() && path.ends_with('/') {
        return Ok(Found::Moved(format!("../{}", escaped(last))));
    }
    if !status.is_dir() && !status.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = fs::openat2(&directory, within, flags, Mode::empty(), resolve)?;
    if status.is_dir() {
        return Ok(Found::Directory(listing(&opened)?));
    }
    let mut file = File::from(opened);
    // Another may have taken its place.
    let status = file.metadata()?;
    if !status.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let modified = status.modified().ok();
    let modified = modified.and_then(|at| Timestamp::try_from(at).ok());
    let modified = modified.map(|at| at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    let mut first = Vec::with_capacity(SNIFFED);
    (&mut file).take(SNIFFED as u64).read_to_end(&mut first)?;
    io::Seek::rewind(&mut file)?;
    Ok(Found::File(LogFile {
        bytes: status.len(),
        modified: modified.and_then(|text| HeaderValue::try_from(text).ok()),
        kind: kind(&first),
        file,
    }))
}

/// What Go takes the content for, as far as it is found among logs.
fn kind(first: &[u8]) -> &'static str {
    let is_binary = |byte: &u8| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    match first {
        [0x1f, 0x8b, 0x08, ..] => "application/x-gzip",
        _ if first.iter().any(is_binary) => "application/octet-stream",
        _ => "text/plain; charset=utf-8",
    }
}

/// The page of a directory, in the form of Go's.
fn listing(directory: &impl std::os::fd::AsFd) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        let is_directory = entry.file_type() == fs::FileType::Directory;
        names.push(if is_directory { name + "/" } else { name });
    }
    names.sort();
    let mut page =
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n"
            .to_owned();
    for name in names {
        // Otherwise what is before the colon would be a scheme.
        let here = if name.contains(':') { "./" } else { "" };
        let shown = name
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&#34;")
            .replace('\'', "&#39;");
        page.push_str(&format!(
            "<a href=\"{here}{}\">{shown}</a>\n",
            escaped(&name)
        ));
    }
    page.push_str("</pre>\n");
    Ok(page)
}

fn moved(place: &str) -> Response {
    let mut response = StatusCode::MOVED_PERMANENTLY.into_response();
    set(&mut response, header::LOCATION, place);
    response
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// The file as long as it is now: a log grows meanwhile.
fn send(log: LogFile) -> Response {
    let (sender, chunks) = mpsc::channel::<io::Result<Bytes>>(1);
    tokio::spawn(async move {
        let (mut file, mut left) = (log.file, log.bytes);
        while left > 0 {
            let read = tokio::task::spawn_blocking(move || {
                let most = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
                let mut chunk = vec![0; most];
                let read = file.read(&mut chunk)?;
                chunk.truncate(read);
                Ok((file, chunk))
            });
            let chunk = match read.await {
                Ok(Ok((same, chunk))) => {
                    file = same;
                    chunk
                }
                Ok(Err(error)) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
                Err(_) => return,
            };
            if chunk.is_empty() {
                // It was cut: the client sees that something is missing.
                let _ = sender.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
                return;
            }
            left -= chunk.len() as u64;
            // Who does not read any more does not get more.
            if sender.send(Ok(chunk.into())).await.is_err() {
                return;
            }
        }
    });
    let mut response = Body::from_stream(ReceiverStream::new(chunks)).into_response();
    set(&mut response, header::CONTENT_TYPE, log.kind);
    set(
        &mut response,
        header::CONTENT_LENGTH,
        &log.bytes.to_string(),
    );
    if let Some(modified) = log.modified {
        response
            .headers_mut()
            .insert(header::LAST_MODIFIED, modified);
    }
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(root: &Path, path: &str) -> (StatusCode, Response, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = routes(root.to_owned()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 30).await.unwrap();
        let status = parts.status;
        let body = String::from_utf8_lossy(&body).into_owned();
        (status, Response::from_parts(parts, Body::empty()), body)
    }

    fn tree() -> tempfile::TempDir {
        let room = tempfile::tempdir().unwrap();
        let logs = room.path().join("log");
        std::fs::create_dir_all(logs.join("pods/a")).unwrap();
        std::fs::write(room.path().join("secret"), "secret").unwrap();
        std::fs::write(logs.join("syslog"), "one\ntwo\n").unwrap();
        std::fs::write(logs.join("a <b>:c"), "x").unwrap();
        std::fs::write(logs.join("old.gz"), [0x1f, 0x8b, 0x08, 0]).unwrap();
        std::fs::write(logs.join("pods/a/0.log"), "0").unwrap();
        let link = std::os::unix::fs::symlink::<&str, _>;
        link("syslog", logs.join("inside")).unwrap();
        link("../secret", logs.join("outside")).unwrap();
        link("/etc/passwd", logs.join("absolute")).unwrap();
        link("/proc/self/root/etc", logs.join("magic")).unwrap();
        room
    }

    #[tokio::test]
    async fn files_and_directories_look_as_go_shows_them() {
        let room = tree();
        let logs = room.path().join("log");
        let (status, response, body) = ask(&logs, "/logs/syslog").await;
        assert_eq!((status, &*body), (StatusCode::OK, "one\ntwo\n"));
        let header = |name: header::HeaderName| response.headers()[name].to_str().unwrap();
        assert_eq!(header(header::CONTENT_TYPE), "text/plain; charset=utf-8");
        assert_eq!(header(header::CONTENT_LENGTH), "8");
        assert!(header(header::LAST_MODIFIED).ends_with(" GMT"));
        assert_eq!(ask(&logs, "/logs/inside").await.2, "one\ntwo\n");
        assert_eq!(ask(&logs, "/logs/pods/a/0.log").await.2, "0");
        assert_eq!(ask(&logs, "/logs/a%20%3Cb%3E:c").await.2, "x");
        let (_, response, _) = ask(&logs, "/logs/old.gz").await;
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/x-gzip"
        );
        let (status, _, page) = ask(&logs, "/logs/").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            page,
            "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n\
             <a href=\"./a%20%3Cb%3E:c\">a &lt;b&gt;:c</a>\n\
             <a href=\"absolute\">absolute</a>\n<a href=\"inside\">inside</a>\n<a href=\"magic\">magic</a>\n\
             <a href=\"old.gz\">old.gz</a>\n<a href=\"outside\">outside</a>\n<a href=\"pods/\">pods/</a>\n\
             <a href=\"syslog\">syslog</a>\n</pre>\n"
        );
        for (path, place) in [
            ("/logs", "logs/"),
            ("/logs/pods", "pods/"),
            ("/logs/pods/a", "a/"),
            ("/logs/syslog/", "../syslog"),
        ] {
            let (status, response, _) = ask(&logs, path).await;
            assert_eq!(status, StatusCode::MOVED_PERMANENTLY, "{path}");
            assert_eq!(response.headers()[header::LOCATION], place, "{path}");
        }
    }

    #[tokio::test]
    async fn nothing_leads_out() {
        let room = tree();
        let logs = room.path().join("log");
        nix::unistd::mkfifo(&logs.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [
            "/logs/outside",
            "/logs/absolute",
            "/logs/magic/passwd",
            "/logs/../secret",
            "/logs/..%2fsecret",
            "/logs/pods/..%2f..%2fsecret",
            "/logs/%2e%2e/secret",
            "/logs/%2fetc/passwd",
            "/logs//etc/passwd",
            "/logs/nothing",
            "/logs/pipe",
            "/logs/syslog%00",
        ] {
            let (status, _, body) = ask(&logs, path).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
            assert_eq!(body, "404 page not found\n", "{path}");
        }
    }

    #[tokio::test]
    async fn a_large_file_arrives_whole() {
        let room = tempfile::tempdir().unwrap();
        let line = "0123456789abcde\n".repeat(100_000);
        std::fs::write(room.path().join("large"), &line).unwrap();
        let (_, _, body) = ask(room.path(), "/logs/large").await;
        assert!(body == line, "{} of {} bytes", body.len(), line.len());
    }
}
