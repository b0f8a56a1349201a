//! Image names: which are legal, and what is added to one before the runtime sees it.
//!
//! Source of the grammar: the distribution project's reference format, as the Kubernetes documentation ("Images")
//! describes it for `image`.

use std::fmt;

/// The tag of a name that has neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Registry of a name that has none.
const DEFAULT_DOMAIN: &str = "docker.io";
/// What that registry was called, and still is in credentials.
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
/// Namespace, at that registry, of a name that has none.
const OFFICIAL_NAMESPACE: &str = "library/";
/// Bytes of a repository's path without its registry.
const MAX_PATH: usize = 255;
/// Bytes of a tag.
const MAX_TAG: usize = 128;

/// A legal image name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    normalized: String,
    repository: String,
}

impl ImageName {
    /// Takes `image` apart.
    ///
    /// # Errors
    /// When it is no legal reference to an image.
    pub fn parse(image: &str) -> Result<Self, InvalidImageName> {
        parse(image).map_err(|why| InvalidImageName {
            image: image.to_owned(),
            why,
        })
    }

    /// What the runtime is asked for: the name as written, with `:latest` where there is neither tag nor digest. A
    /// registry is not added; which one a short name means is the runtime's to say.
    #[must_use]
    pub fn normalized(&self) -> &str {
        &self.normalized
    }

    /// Registry and path in full, `docker.io/library/nginx` for `nginx:1`: what credentials are looked up by.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The name in full, as a runtime lists it that takes short names for the default registry's: with the digest where
    /// there is one, else with the tag.
    pub(super) fn in_full(&self) -> String {
        let bare = bare_name(&self.normalized);
        let suffix = match self.normalized.split_once('@') {
            Some((_, digest)) => format!("@{digest}"),
            None => self.normalized[bare.len()..].to_owned(),
        };
        format!("{}{suffix}", self.repository)
    }
}

/// The name of an image without tag and digest. `image` is a legal one.
pub(super) fn bare_name(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or_default();
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[last..].find(':') {
        Some(colon) => &name[..last + colon],
        None => name,
    }
}

/// A text that is no image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {image:?}: {why}")]
pub struct InvalidImageName {
    image: String,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    Identifier(String),
    Uppercase(String),
    UppercaseElsewhere,
    Format,
    TooLong,
    DigestFormat,
    DigestLength,
    DigestAlgorithm,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identifier(name) => write!(
                f,
                "invalid repository name ({name}), cannot specify 64-byte hexadecimal strings"
            ),
            Self::Uppercase(name) => write!(
                f,
                "invalid reference format: repository name ({name}) must be lowercase"
            ),
            Self::UppercaseElsewhere => f.write_str("repository name must be lowercase"),
            Self::Format => f.write_str("invalid reference format"),
            Self::TooLong => write!(
                f,
                "repository name must not be more than {MAX_PATH} characters"
            ),
            Self::DigestFormat => f.write_str("invalid checksum digest format"),
            Self::DigestLength => f.write_str("invalid checksum digest length"),
            Self::DigestAlgorithm => f.write_str("unsupported digest algorithm"),
        }
    }
}

fn parse(image: &str) -> Result<ImageName, Why> {
    if image.len() == 64
        && image
            .bytes()
            .all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(Why::Identifier(image.to_owned()));
    }
    let (domain, rest) = split_domain(image);
    let name = rest.split(':').next().unwrap_or_default();
    if name.to_lowercase() != name {
        return Err(Why::Uppercase(name.to_owned()));
    }
    let parts = reference(&domain, &rest).map_err(|why| {
        // Only what the lower-case spelling would have made legal is an upper-case mistake.
        let lowered = rest.to_lowercase();
        let legal_lowered = reference(&domain.to_lowercase(), &lowered).is_ok();
        match why {
            Why::Format if legal_lowered => Why::UppercaseElsewhere,
            other => other,
        }
    })?;
    let named = parts.tagged || parts.digest.is_some();
    if let Some(digest) = parts.digest {
        check_digest(digest)?;
    }
    Ok(ImageName {
        normalized: match named {
            true => image.to_owned(),
            false => format!("{image}:{DEFAULT_TAG}"),
        },
        repository: format!("{domain}/{}", parts.path),
    })
}

/// The registry that a name means, and the rest of it.
fn split_domain(image: &str) -> (String, String) {
    let (domain, rest) = match image.split_once('/') {
        Some((LEGACY_DEFAULT_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if is_domain_not_path(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, image),
    };
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        (domain.to_owned(), format!("{OFFICIAL_NAMESPACE}{rest}"))
    } else {
        (domain.to_owned(), rest.to_owned())
    }
}

/// Whether the first part of a name is a registry rather than a namespace of the default one.
fn is_domain_not_path(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != first
}

struct Parts<'a> {
    path: &'a str,
    tagged: bool,
    digest: Option<&'a str>,
}

fn reference<'a>(domain: &str, rest: &'a str) -> Result<Parts<'a>, Why> {
    let (name, digest) = match rest.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (rest, None),
    };
    let (path, tag) = match name.rsplit_once(':') {
        // A colon before a slash would be a port, and only the domain has one.
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    // What looks like a domain and is none can still be the first part of a path: `a_b.c/d`.
    let domain_is_path = is_path_component(domain);
    let legal = (is_domain(domain) || domain_is_path)
        && path.split('/').all(is_path_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(has_digest_form);
    if !legal {
        return Err(Why::Format);
    }
    let path_length = match is_domain(domain) {
        true => path.len(),
        false => domain.len() + 1 + path.len(),
    };
    if path_length > MAX_PATH {
        return Err(Why::TooLong);
    }
    Ok(Parts {
        path,
        tagged: tag.is_some(),
        digest,
    })
}

/// A host name, an IPv4 address or a bracketed IPv6 one, with or without a port.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let port_legal =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()));
    let v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|address| {
            !address.is_empty() && address.bytes().all(|c| c.is_ascii_hexdigit() || c == b':')
        });
    port_legal && (v6 || host.split('.').all(is_domain_label))
}

fn is_domain_label(label: &str) -> bool {
    let alphanumeric = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    alphanumeric(label.bytes().next())
        && alphanumeric(label.bytes().last())
        && label
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'-')
}

/// Lower-case letters and digits, between them one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = component.as_bytes();
    if !(bytes.first().copied().is_some_and(word) && bytes.last().copied().is_some_and(word)) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|c| c == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || c == b'.' || c == b'-')
}

/// `<algorithm>:<at least 32 hexadecimal digits>`, whether or not the algorithm is one there is.
fn has_digest_form(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return false;
    };
    let word = |word: &str| {
        word.bytes().next().is_some_and(|c| c.is_ascii_alphabetic())
            && word.bytes().all(|c| c.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(word)
        && hex.len() >= 32
        && hex.bytes().all(|c| c.is_ascii_hexdigit())
}

fn check_digest(digest: &str) -> Result<(), Why> {
    let (algorithm, hex) = digest.split_once(':').unwrap_or((digest, ""));
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(Why::DigestAlgorithm),
    };
    if hex.len() != length {
        return Err(Why::DigestLength);
    }
    if !hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Why::DigestFormat);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_tag_is_added_and_a_registry_is_not() {
        for (image, normalized, repository) in [
            ("nginx", "nginx:latest", "docker.io/library/nginx"),
            ("nginx:1.27", "nginx:1.27", "docker.io/library/nginx"),
            ("me/app", "me/app:latest", "docker.io/me/app"),
            (
                "docker.io/nginx",
                "docker.io/nginx:latest",
                "docker.io/library/nginx",
            ),
            (
                "index.docker.io/me/app",
                "index.docker.io/me/app:latest",
                "docker.io/me/app",
            ),
            ("localhost/app", "localhost/app:latest", "localhost/app"),
            (
                "localhost:5000/app",
                "localhost:5000/app:latest",
                "localhost:5000/app",
            ),
            ("Reg/app", "Reg/app:latest", "Reg/app"),
            (
                "registry.k8s.io/pause:3.10",
                "registry.k8s.io/pause:3.10",
                "registry.k8s.io/pause",
            ),
            (
                "[fd00::1]:5000/a/b",
                "[fd00::1]:5000/a/b:latest",
                "[fd00::1]:5000/a/b",
            ),
            ("[fd00::1]/a", "[fd00::1]/a:latest", "[fd00::1]/a"),
            ("a_b.c/d", "a_b.c/d:latest", "a_b.c/d"),
            ("a--b/c__d.e", "a--b/c__d.e:latest", "docker.io/a--b/c__d.e"),
        ] {
            let name = ImageName::parse(image).unwrap();
            assert_eq!(
                (name.normalized(), name.repository()),
                (normalized, repository),
                "{image}"
            );
        }
    }

    #[test]
    fn a_digest_needs_no_tag() {
        for image in [
            format!("nginx@sha256:{HEX}"),
            format!("r.io:5000/nginx:1@sha256:{HEX}"),
        ] {
            assert_eq!(ImageName::parse(&image).unwrap().normalized(), image);
        }
    }

    #[test]
    fn what_is_no_name_says_why() {
        let long = "a/".repeat(200) + "b";
        for (image, why) in [
            ("", "invalid reference format"),
            ("nginx:", "invalid reference format"),
            ("nginx:.1", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("/nginx", "invalid reference format"),
            ("nginx/", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("r.io:port/a", "invalid reference format"),
            ("https://r.io/a", "invalid reference format"),
            ("nginx@sha256:12", "invalid reference format"),
            (
                "Nginx",
                "invalid reference format: repository name (library/Nginx) must be lowercase",
            ),
            (
                "r.io/App:1",
                "invalid reference format: repository name (App) must be lowercase",
            ),
            (
                HEX,
                "invalid repository name (e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855), cannot specify 64-byte hexadecimal strings",
            ),
            (
                &long,
                "repository name must not be more than 255 characters",
            ),
            (&format!("nginx@md5:{HEX}"), "unsupported digest algorithm"),
            (
                &format!("nginx@sha512:{HEX}"),
                "invalid checksum digest length",
            ),
            (
                &format!("nginx@sha256:{}", HEX.to_uppercase()),
                "invalid checksum digest format",
            ),
        ] {
            assert_eq!(
                ImageName::parse(image).map_err(|e| e.to_string()),
                Err(format!("couldn't parse image name {image:?}: {why}")),
            );
        }
    }

    #[test]
    fn names_lose_tag_and_digest_or_are_told_in_full() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (image, name, full) in [
            (
                "busybox",
                "busybox",
                "docker.io/library/busybox:latest".to_owned(),
            ),
            (
                "busybox:1.36",
                "busybox",
                "docker.io/library/busybox:1.36".to_owned(),
            ),
            (
                "r.io:5000/a",
                "r.io:5000/a",
                "r.io:5000/a:latest".to_owned(),
            ),
            (
                &format!("r.io:5000/a/b:1@{digest}"),
                "r.io:5000/a/b",
                format!("r.io:5000/a/b@{digest}"),
            ),
            (
                &format!("me/a@{digest}"),
                "me/a",
                format!("docker.io/me/a@{digest}"),
            ),
        ] {
            assert_eq!(bare_name(image), name);
            assert_eq!(ImageName::parse(image).unwrap().in_full(), full);
        }
    }
}
