//! Tokens of service accounts that lie in volumes already: after a restart of the agent they are all there is of them until
//! the API server makes others.

use super::{atomic_writer, projected};
use crate::objects::{Token, TokenWish};
use crate::pod::{self, Pod, PodUid};
use crate::poddir::{PodDirs, VOLUMES};

/// More of a token is not read, bytes: those of today have less than 2 KiB.
const MOST_BYTES: u64 = 64 << 10;

/// The tokens in the volumes of `pod`, with what each was asked for.
#[must_use]
pub(crate) fn tokens_in_volumes(
    dirs: &PodDirs,
    uid: &PodUid,
    pod: &Pod,
) -> Vec<(TokenWish, Token)> {
    let mut found = Vec::new();
    for volume in pod::spec(pod).volumes.iter().flatten() {
        let sources = volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten());
        for source in sources.filter_map(|source| source.service_account_token.as_ref()) {
            if let Some(token) = read(dirs, uid, &volume.name, &source.path) {
                found.push((TokenWish::of(source), token));
            }
        }
    }
    found
}

/// A token that is whole; what cannot be read is none.
fn read(dirs: &PodDirs, uid: &PodUid, volume: &str, path: &str) -> Option<Token> {
    let pod = dirs.get(uid).ok()??;
    let kind = pod
        .dir()
        .child(VOLUMES)
        .ok()??
        .child(projected::PLUGIN)
        .ok()??;
    let volume = kind.child_or_mount(volume).ok()??;
    let bytes = atomic_writer::read(&volume, path, MOST_BYTES).ok()??;
    let text = String::from_utf8(bytes).ok()?;
    (!text.is_empty()).then(|| Token::new(&text))
}
