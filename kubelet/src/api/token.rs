//! A token in a file, read again from time to time: somebody renews it there.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;

/// How long what was read is used (client-go's `CachingTokenSource` of a file).
const LASTS: Duration = Duration::from_secs(60);

/// A file with a token.
pub(super) struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<(Duration, HeaderValue)>>,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: Mutex::new(None),
        }
    }

    /// `Authorization`, as it is at `now`. A file that cannot be read leaves what was read before.
    ///
    /// # Errors
    /// When it has never been read.
    pub(super) fn header(&self, now: Duration) -> io::Result<HeaderValue> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, header)) = &*read
            && now.saturating_sub(*at) < LASTS
        {
            return Ok(header.clone());
        }
        match (self.fresh(), &*read) {
            (Ok(header), _) => {
                *read = Some((now, header.clone()));
                Ok(header)
            }
            (Err(_), Some((_, header))) => Ok(header.clone()),
            (Err(error), None) => Err(error),
        }
    }

    fn fresh(&self) -> io::Result<HeaderValue> {
        let named = |error: io::Error| {
            let text = format!("cannot read the token in {}: {error}", self.path.display());
            io::Error::new(error.kind(), text)
        };
        let text = std::fs::read_to_string(&self.path).map_err(named)?;
        let token = text.trim();
        if token.is_empty() {
            return Err(named(io::Error::other("it is empty")));
        }
        let header = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut header = header.map_err(|_| named(io::Error::other("it is no token")))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenFile({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_each_minute_and_a_bad_file_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let token = TokenFile::new(path.clone());
        let at = Duration::from_secs;
        assert!(
            token
                .header(at(0))
                .unwrap_err()
                .to_string()
                .contains("token: No such file")
        );
        std::fs::write(&path, "first\n").unwrap();
        assert_eq!(token.header(at(0)).unwrap(), "Bearer first");
        std::fs::write(&path, "second\n").unwrap();
        assert_eq!(token.header(at(59)).unwrap(), "Bearer first");
        assert_eq!(token.header(at(60)).unwrap(), "Bearer second");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(token.header(at(600)).unwrap(), "Bearer second");
    }
}
