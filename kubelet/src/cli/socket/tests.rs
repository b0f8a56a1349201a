use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

/// What is read of an answer of these bytes, which come in `parts`.
fn answered(parts: &'static [&'static str]) -> Result<(String, Option<CliError>), CliError> {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let read = stream.read(&mut request).unwrap();
        for part in parts {
            stream.write_all(part.as_bytes()).unwrap();
        }
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    let answer = get(&path, "/x?y=z");
    let request = agent.join().unwrap();
    assert!(
        request.starts_with("GET /x?y=z HTTP/1.1\r\n") && request.ends_with("\r\n\r\n"),
        "{request}"
    );
    let mut body = answer?;
    let mut text = Vec::new();
    let broken = body.read_to_end(&mut text).err();
    let broken = broken.map(|error| body.error(error));
    Ok((String::from_utf8(text).unwrap(), broken))
}

fn whole(parts: &'static [&'static str]) -> String {
    let (text, broken) = answered(parts).unwrap();
    assert!(broken.is_none(), "{broken:?}");
    text
}

#[test]
fn a_body_ends_where_its_framing_says() {
    assert_eq!(
        whole(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe",
            "llo, there",
        ]),
        "hello"
    );
    assert_eq!(whole(&["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]), "");
    assert_eq!(
        whole(&["HTTP/1.0 200 OK\r\n\r\nall", " there is"]),
        "all there is"
    );
    assert_eq!(
        whole(&[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
            "llo\r",
            "\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
        ]),
        "hello0123456789"
    );
}

#[test]
fn an_answer_that_breaks_off_is_no_whole_one() {
    for parts in [
        &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"][..],
        &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell"],
        &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n"],
        &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhell"],
    ] {
        let (text, broken) = answered(parts).unwrap();
        assert!(text.starts_with("hell"), "{text}");
        assert!(matches!(broken, Some(CliError::Cut)), "{broken:?}");
    }
}

#[test]
fn a_refusal_is_told_in_its_words() {
    let refused = |parts| answered(parts).unwrap_err().to_string();
    assert_eq!(
        refused(&["HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nno such\n"]),
        "the agent answers: no such"
    );
    assert_eq!(
        refused(&["HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"]),
        "the agent answers: HTTP/1.1 500 Oh"
    );
    assert!(refused(&[]).contains("cannot be understood"));
}
