//! Who is answered on the agent's own socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use axum::routing::get;
use rustix::process::Uid;

use super::*;

/// Somebody without rights (`nobody` on most systems).
const NOBODY: u32 = 65534;

/// What somebody of this user is answered, or why he cannot connect.
fn ask_as(uid: u32, socket: PathBuf) -> io::Result<String> {
    // Who a thread is, is its own: one that ends afterwards leaves the others who they are.
    let asking = std::thread::spawn(move || {
        rustix::thread::set_thread_uid(Uid::from_raw(uid))?;
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asking.join().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_root_is_refused_whatever_the_file_allows() {
    let own = rustix::process::geteuid();
    if !own.is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("agent.sock");
    let routes = Router::new().route("/", get(|| async { "a secret" }));
    let (server, _file) = Server::bind_socket(&path, routes).unwrap();
    tokio::spawn(server.run());
    let all = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    all(room.path(), 0o755);
    let ask = async |uid| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || ask_as(uid, path))
            .await
            .unwrap()
    };
    let refused = ask(NOBODY).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    all(&path, 0o666);
    let refused = ask(NOBODY).await.unwrap();
    assert!(refused.starts_with("HTTP/1.0 403 "), "{refused}");
    assert!(
        refused.ends_with("only root is answered on this socket\n"),
        "{refused}"
    );
    assert!(ask(0).await.unwrap().ends_with("a secret"));
}
