//! The address of a runtime: a path to a unix socket.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a unix socket's path, `sizeof(sun_path)` less the closing zero (unix(7)).
const MAX_PATH_BYTES: usize = 107;

/// An absolute path to a unix socket, checked. Shown as `unix:///path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint(Arc<str>);

/// An endpoint that names no unix socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing was given.
    #[error("the runtime endpoint is empty; it reads unix:///run/containerd/containerd.sock")]
    Empty,
    /// A scheme other than `unix`.
    #[error("runtime endpoint {0:?} is not a unix socket; it reads unix:///path/to/socket")]
    NotUnix(String),
    /// A path that does not begin with `/`, or none.
    #[error("runtime endpoint {0:?} has no absolute path; it reads unix:///path/to/socket")]
    NotAbsolute(String),
    /// Longer than a socket's address can be, or with a zero byte in it.
    #[error(
        "the path of runtime endpoint {0:?} is longer than {MAX_PATH_BYTES} bytes or has a zero byte"
    )]
    NoSocketPath(String),
}

impl Endpoint {
    /// Reads `unix:///path`, `unix:/path` or a plain absolute path.
    ///
    /// # Errors
    /// See [`EndpointError`]; whether something listens there is not looked at.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        let path = match text.split_once(':') {
            Some(("unix", rest)) => rest.strip_prefix("//").unwrap_or(rest),
            Some((scheme, _)) if !scheme.contains('/') => {
                return Err(EndpointError::NotUnix(text.into()));
            }
            _ => text,
        };
        if !path.starts_with('/') {
            return Err(EndpointError::NotAbsolute(text.into()));
        }
        if path.len() > MAX_PATH_BYTES || path.contains('\0') {
            return Err(EndpointError::NoSocketPath(text.into()));
        }
        Ok(Self(path.into()))
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(&*self.0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_spellings() {
        for text in ["unix:///run/c.sock", "unix:/run/c.sock", "/run/c.sock"] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.path(), Path::new("/run/c.sock"), "{text}");
            assert_eq!(endpoint.to_string(), "unix:///run/c.sock");
        }
        assert!(Endpoint::parse("/run/a:b.sock").is_ok());
    }

    #[test]
    fn refuses_what_is_no_socket() {
        let long = format!("unix:///{}", "x".repeat(120));
        let cases = [
            ("", EndpointError::Empty),
            (
                "tcp://1.2.3.4:5",
                EndpointError::NotUnix("tcp://1.2.3.4:5".into()),
            ),
            (
                "npipe:////./pipe",
                EndpointError::NotUnix("npipe:////./pipe".into()),
            ),
            ("unix://", EndpointError::NotAbsolute("unix://".into())),
            (
                "unix://run/c.sock",
                EndpointError::NotAbsolute("unix://run/c.sock".into()),
            ),
            (
                "run/c.sock",
                EndpointError::NotAbsolute("run/c.sock".into()),
            ),
            ("/a\0b", EndpointError::NoSocketPath("/a\0b".into())),
            (&long, EndpointError::NoSocketPath(long.clone())),
        ];
        for (text, want) in cases {
            assert_eq!(Endpoint::parse(text), Err(want), "{text}");
        }
    }
}
