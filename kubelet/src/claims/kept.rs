//! What a pod's claims are bound to, in a file of its directory: `{"version":1,"checksum":"<16 hex digits>","claims":[…]}`,
//! the checksum over the array's own bytes. It is there from before the first of the volumes is mounted until they are
//! torn down, so that the next life of the agent knows the pod's volumes without the API server.

use serde::Deserialize;
use static_pods::fnv::Fnv64;

use super::ClaimedVolume;
use crate::dir::DirError;
use crate::pod::PodUid;
use crate::poddir::{CLAIMS, PodDir, PodDirs};

/// While it is being written.
const TEMPORARY: &str = "claims.json.tmp";
/// The form that this agent reads and writes.
const VERSION: u32 = 1;
/// No such file is larger, bytes: what is, is none.
const MOST: u64 = 4 << 20;
/// Nobody but root has to know.
const MODE: u32 = 0o600;

const KEY: &[u8] = b",\"claims\":";
const END: &[u8] = b"}\n";

#[derive(Deserialize)]
struct Header {
    version: u32,
    checksum: String,
}

/// What is kept of the pod whose directory is `pod`; nothing where the file is not there or is no such file, which the log
/// says.
pub(super) fn load(pod: &PodDir) -> Vec<ClaimedVolume> {
    let bytes = match pod.dir().read_file(CLAIMS, MOST) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "what a pod's claims are bound to cannot be read");
            return Vec::new();
        }
    };
    decode(&bytes).unwrap_or_else(|| {
        let path = pod.dir().path_of(CLAIMS);
        tracing::warn!(path = %path.display(), "the file of a pod's claims is bad: the API server is asked");
        Vec::new()
    })
}

/// Keeps `claims`. A file that says so already stays.
pub(super) fn store(pod: &PodDir, claims: &[&ClaimedVolume]) -> Result<(), DirError> {
    let bytes = encode(claims).map_err(|error| DirError {
        action: "encode",
        path: pod.dir().path_of(CLAIMS),
        source: error.into(),
    })?;
    if pod.dir().read_file(CLAIMS, MOST).ok().flatten().as_deref() == Some(&bytes) {
        return Ok(());
    }
    pod.dir().rewrite(TEMPORARY, &bytes, MODE)?;
    pod.dir().rename(TEMPORARY, CLAIMS)
}

/// The pods other than `uid` that have the persistent volume `name` on this node.
pub(super) fn users(dirs: &PodDirs, name: &str, uid: &PodUid) -> Vec<PodUid> {
    let mut pods = dirs.list().unwrap_or_default();
    pods.retain(|other| {
        let pod = dirs.get(other).ok().flatten().filter(|_| other != uid);
        pod.is_some_and(|pod| load(&pod).iter().any(|c| c.volume.metadata.name == name))
    });
    pods
}

fn encode(claims: &[&ClaimedVolume]) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_vec(claims)?;
    let checksum = Fnv64::of(&body);
    let mut bytes =
        format!("{{\"version\":{VERSION},\"checksum\":\"{checksum:016x}\"").into_bytes();
    bytes.extend_from_slice(KEY);
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(END);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Option<Vec<ClaimedVolume>> {
    let key = bytes.windows(KEY.len()).position(|w| w == KEY)?;
    let (header, rest) = bytes.split_at(key);
    let header: Header = serde_json::from_slice(&[header, b"}"].concat()).ok()?;
    let body = rest.strip_prefix(KEY)?.strip_suffix(END)?;
    let whole = header.version == VERSION && header.checksum == format!("{:016x}", Fnv64::of(body));
    // What is wrong with it is not said: an error of serde's quotes the text.
    whole.then(|| serde_json::from_slice(body).ok())?
}
