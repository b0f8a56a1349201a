//! Bytes to be carried, and whether they arrive.

use std::io::{Read, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

const LINE: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.\n";

/// So many bytes that are not all alike, in pieces.
pub(super) fn pieces(mut left: usize) -> impl Iterator<Item = Vec<u8>> {
    let piece = LINE.repeat(1 << 10);
    std::iter::from_fn(move || {
        let length = piece.len().min(left);
        left -= length;
        (length > 0).then(|| piece[..length].to_vec())
    })
}

/// The SHA-256 of [`pieces`], as `sha256sum` writes it: a test's own code is not made for speed.
pub(super) fn sum(length: usize) -> Result<String> {
    let mut command = Command::new("sha256sum");
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = process.stdin.take().context("standard input")?;
    for piece in pieces(length) {
        stdin.write_all(&piece)?;
    }
    drop(stdin);
    Ok(String::from_utf8(process.wait_with_output()?.stdout)?)
}

/// Compares what comes with [`pieces`].
pub(super) struct Compared {
    piece: Vec<u8>,
    count: usize,
    alike: bool,
}

impl Compared {
    pub(super) fn new() -> Self {
        Self {
            piece: LINE.repeat(1 << 10),
            count: 0,
            alike: true,
        }
    }

    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = &self.piece[self.count % self.piece.len()..];
            let length = expected.len().min(bytes.len());
            let (now, later) = bytes.split_at(length);
            self.alike &= now == &expected[..length];
            self.count += length;
            bytes = later;
        }
    }

    pub(super) fn take_all(&mut self, mut from: impl Read) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                read => self.take(&buffer[..read]),
            }
        }
    }

    pub(super) fn is_whole(&self, length: usize) -> Result<()> {
        ensure!(self.count == length, "{} bytes of {length}", self.count);
        ensure!(self.alike, "other bytes");
        Ok(())
    }
}

/// What a shell in the container has to say to say [`pieces`].
pub(super) fn source(length: usize) -> String {
    let line = String::from_utf8_lossy(LINE);
    format!("yes {} | head -c {length}", line.trim_end())
}
