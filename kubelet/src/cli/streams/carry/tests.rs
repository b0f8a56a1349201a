use std::time::Duration;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// A session whose streams are open, the other side of it, and its output.
fn session(input: Option<Input>) -> (Session, UnixStream, tokio::io::DuplexStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut session = Session::new(ours, &[("streamtype", "error")]);
    if let Some(input) = input {
        session.read_from(&[("streamtype", "stdin")], input);
    }
    let (output, written) = tokio::io::duplex(1 << 20);
    session.write_to(&[("streamtype", "stdout")], Box::new(output));
    let opening = std::mem::take(&mut session.first);
    let opened = [0x80, 3, 0, 1];
    assert!(opening.starts_with(&opened), "{opening:?}");
    (session, theirs, written)
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap()
}

fn frame(stream: u32, text: &str, last: bool) -> Vec<u8> {
    [&spdy::data(stream, text.len(), last), text.as_bytes()].concat()
}

#[tokio::test]
async fn each_stream_goes_to_its_place_and_all_of_them_end_it() {
    let (session, mut theirs, mut written) = session(None);
    let carried = tokio::spawn(session.carry());
    // A reply, and a stream that nobody opened.
    let frames = [
        vec![0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1],
        frame(3, "out ", false),
        frame(9, "what?", false),
        frame(1, "why", false),
        frame(3, "and out", true),
        frame(1, "", true),
    ];
    within(theirs.write_all(&frames.concat())).await.unwrap();
    let ended = within(carried).await.unwrap().unwrap().unwrap();
    assert_eq!(ended.error, b"why");
    assert!(ended.told);
    let mut text = String::new();
    within(written.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "out and out");
}

#[tokio::test]
async fn what_is_read_is_sent_to_its_end_and_pings_are_answered() {
    let (session, mut theirs, _written) = session(Some(Box::new(&b"typed"[..])));
    let carried = tokio::spawn(session.carry());
    let mut said = vec![0; 2 * HEAD + 5];
    within(theirs.read_exact(&mut said)).await.unwrap();
    assert_eq!(
        said,
        [frame(3, "typed", false), frame(3, "", true)].concat()
    );
    let ping = spdy::pong([0, 0, 0, 2]);
    theirs.write_all(&ping).await.unwrap();
    let mut pong = vec![0; ping.len()];
    within(theirs.read_exact(&mut pong)).await.unwrap();
    assert_eq!(pong, ping);
    drop(theirs);
    let ended = within(carried).await.unwrap().unwrap().unwrap();
    assert!(!ended.told, "it has merely gone");
}

#[tokio::test]
async fn a_reset_ends_a_stream_and_half_a_frame_is_no_end() {
    let (session, mut theirs, _written) = self::session(None);
    let carried = tokio::spawn(session.carry());
    let reset = |stream: u8| [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, stream, 0, 0, 0, 5];
    theirs.write_all(&reset(1)).await.unwrap();
    theirs.write_all(&reset(3)).await.unwrap();
    assert!(within(carried).await.unwrap().unwrap().unwrap().told);

    let (session, mut theirs, _written) = self::session(None);
    let carried = tokio::spawn(session.carry());
    theirs.write_all(&spdy::data(3, 10, false)).await.unwrap();
    drop(theirs);
    let broken = within(carried).await.unwrap();
    assert!(matches!(broken, Err(StreamError::Broken(_))), "{broken:?}");
}

#[tokio::test]
async fn an_endless_error_is_not_kept() {
    let (session, mut theirs, _written) = session(None);
    let carried = tokio::spawn(session.carry());
    for _ in 0..64 {
        let piece = frame(1, &"x".repeat(16 << 10), false);
        within(theirs.write_all(&piece)).await.unwrap();
    }
    drop(theirs);
    let ended = within(carried).await.unwrap().unwrap().unwrap();
    assert_eq!(ended.error.len(), MOST_ERROR);
}

#[test]
fn two_keys_one_after_the_other_let_go() {
    let typed = |pieces: &[&[u8]]| {
        let mut prefix = 0;
        pieces.iter().any(|piece| lets_go(piece, &mut prefix))
    };
    assert!(typed(&[b"ls\x10\x11"]));
    assert!(typed(&[b"\x10", b"\x11"]));
    assert!(typed(&[b"\x10\x10\x11"]));
    assert!(!typed(&[b"\x10x\x11", b"\x11\x10"]));
}
