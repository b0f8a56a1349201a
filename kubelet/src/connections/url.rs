//! The address of an HTTP request, made of its parts as Go's `net/url` makes it, and followed by redirects.

use std::fmt;

use super::dial::joined;

/// An absolute URL of `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: String,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// Escaped; empty or begins with a slash.
    path: String,
    /// What follows the question mark.
    query: Option<String>,
    fragment: Option<String>,
}

impl Url {
    /// `path` may have a query and a fragment. One that is no path of a URL is taken as it is, and escaped.
    pub(crate) fn new(scheme: &str, host: &str, port: u16, path: &str) -> Self {
        let parts = parse_path(path).unwrap_or_else(|| Parts {
            path: escaped(path),
            ..Parts::default()
        });
        let slash = match parts.path.is_empty() || parts.path.starts_with('/') {
            true => "",
            false => "/",
        };
        Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port: Some(port),
            path: format!("{slash}{}", parts.path),
            query: parts.query,
            fragment: parts.fragment,
        }
    }

    pub(crate) fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    /// The port to connect to.
    pub(crate) fn port(&self) -> u16 {
        let default = if self.is_https() { 443 } else { 80 };
        self.port.unwrap_or(default)
    }

    /// Host and port as the `Host` header has them.
    pub(crate) fn authority(&self) -> String {
        match self.port {
            Some(port) => joined(&self.host, port),
            None if self.host.contains(':') => format!("[{}]", self.host),
            None => self.host.clone(),
        }
    }

    /// Path and query, as they stand in the request. Bytes that cannot are escaped.
    pub(crate) fn target(&self) -> String {
        let mut target = if self.path.is_empty() {
            "/".to_owned()
        } else {
            self.path.clone()
        };
        if let Some(query) = &self.query {
            target.push('?');
            for byte in query.bytes() {
                match byte {
                    b'!'..=b'~'
                        if !matches!(
                            byte,
                            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
                        ) =>
                    {
                        target.push(char::from(byte));
                    }
                    _ => push_escaped(&mut target, byte),
                }
            }
        }
        target
    }

    /// Where a `Location` header of the answer leads; none when it is no URL. The second is whether it names no host.
    pub(crate) fn join(&self, location: &str) -> Option<(Self, bool)> {
        if location.bytes().any(|b| b < b' ' || b == 0x7f) {
            return None;
        }
        if let Some((scheme, rest)) = scheme_of(location) {
            let rest = rest.strip_prefix("//")?;
            return Some((Self::absolute(&scheme.to_ascii_lowercase(), rest)?, false));
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Some((Self::absolute(&self.scheme, rest)?, true));
        }
        let parts = parse_path(location)?;
        let (path, query) = match parts.path.as_str() {
            "" => (
                self.path.clone(),
                parts.query.or_else(|| self.query.clone()),
            ),
            absolute if absolute.starts_with('/') => (without_dots(absolute), parts.query),
            relative => {
                let base = self.path.rsplit_once('/').map_or("", |(base, _)| base);
                (without_dots(&format!("{base}/{relative}")), parts.query)
            }
        };
        let joined = Self {
            path,
            query,
            fragment: parts.fragment.or_else(|| self.fragment.clone()),
            ..self.clone()
        };
        Some((joined, true))
    }

    fn absolute(scheme: &str, rest: &str) -> Option<Self> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']')?;
                (host, port.strip_prefix(':').unwrap_or(port))
            }
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        let port = match port {
            "" => None,
            port => Some(port.parse().ok()?),
        };
        let parts = parse_path(path)?;
        Some(Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port,
            path: parts.path,
            query: parts.query,
            fragment: parts.fragment,
        })
    }

    /// As the `Referer` header has it.
    pub(crate) fn referer(&self) -> String {
        let whole = Self {
            fragment: None,
            ..self.clone()
        };
        whole.to_string()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path)?;
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        if let Some(fragment) = &self.fragment {
            write!(f, "#{}", escaped(fragment))?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Parts {
    /// Escaped.
    path: String,
    query: Option<String>,
    fragment: Option<String>,
}

/// Reads `/path?query#fragment`; what stands for a scheme or a host is left out. None for what is no URL.
fn parse_path(text: &str) -> Option<Parts> {
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return None;
    }
    let (text, fragment) = match text.split_once('#') {
        Some((text, fragment)) => (text, Some(fragment.to_owned())),
        None => (text, None),
    };
    let (text, has_scheme) = match scheme_of(text) {
        Some((_, rest)) => (rest, true),
        None if text.starts_with(':') => return None,
        None => (text, false),
    };
    let (mut text, query) = match text.split_once('?') {
        Some((text, query)) => (text, Some(query.to_owned())),
        None => (text, None),
    };
    if !text.starts_with('/') {
        let first = text.split('/').next().unwrap_or_default();
        if has_scheme || first.contains(':') {
            return None;
        }
    } else if !text.starts_with("///")
        && let Some(rest) = text.strip_prefix("//")
    {
        text = rest.find('/').map_or("", |slash| &rest[slash..]);
    }
    let path = if is_escaped(text) {
        text.to_owned()
    } else {
        escaped(&unescaped(text)?)
    };
    Some(Parts {
        path,
        query: query.filter(|query| !query.is_empty()),
        fragment: fragment.filter(|fragment| !fragment.is_empty()),
    })
}

/// `scheme:rest`.
fn scheme_of(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut bytes = scheme.bytes();
    let begins = bytes.next().is_some_and(|b| b.is_ascii_alphabetic());
    let goes_on = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    (begins && goes_on).then_some((scheme, rest))
}

/// Whether `path` is escaped as it should be: then it stays as it is (RFC 3986, section 3.3).
fn is_escaped(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'%' => {
            let hex = bytes.get(at + 1..at + 3);
            hex.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
        }
        b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']' => true,
        byte => stays(*byte),
    })
}

/// What a path has unescaped when it is escaped anew.
fn stays(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'_'
                | b'.'
                | b'~'
                | b'$'
                | b'&'
                | b'+'
                | b','
                | b'/'
                | b':'
                | b';'
                | b'='
                | b'@'
        )
}

/// A path as it is meant; none for a percent sign that escapes nothing.
pub(crate) fn unescaped(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).ok()?);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A path as part of a URL, as Go has it.
pub(crate) fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match stays(byte) {
            true => out.push(char::from(byte)),
            false => push_escaped(&mut out, byte),
        }
    }
    out
}

fn push_escaped(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    for digit in [byte >> 4, byte & 15] {
        out.push(char::from(HEX[usize::from(digit)]));
    }
}

/// Resolves `.` and `..` (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_made_as_go_makes_it() {
        for (path, url, target) in [
            ("/healthz", "/healthz", "/healthz"),
            ("", "", "/"),
            ("/", "/", "/"),
            ("healthz", "/healthz", "/healthz"),
            ("/a?b=c&d", "/a?b=c&d", "/a?b=c&d"),
            ("?b", "?b", "/?b"),
            ("/a#f", "/a#f", "/a"),
            ("/a b", "/a%20b", "/a%20b"),
            ("/%20!*()[]'", "/%20!*()[]'", "/%20!*()[]'"),
            ("/%20 !", "/%20%20%21", "/%20%20%21"),
            ("/%zz?x", "/%25zz%3Fx", "/%25zz%3Fx"),
            ("/é", "/%C3%A9", "/%C3%A9"),
            ("//other/x", "/x", "/x"),
            ("//other", "", "/"),
            ("http://other/x?y", "/x?y", "/x?y"),
            ("/a?x=\"é y", "/a?x=\"é y", "/a?x=%22%C3%A9%20y"),
            ("/\n", "/%0A", "/%0A"),
            ("a:b", "/a:b", "/a:b"),
        ] {
            let made = Url::new("http", "10.0.0.1", 8080, path);
            assert_eq!(
                made.to_string(),
                format!("http://10.0.0.1:8080{url}"),
                "{path}"
            );
            assert_eq!(made.target(), target, "{path}");
        }
        let made = Url::new("https", "fd00::1", 443, "/x");
        assert_eq!(made.to_string(), "https://[fd00::1]:443/x");
        assert_eq!(made.authority(), "[fd00::1]:443");
        assert_eq!(Url::new("http", "", 80, "/").to_string(), "http://:80/");
    }

    #[test]
    fn a_location_is_followed_from_where_it_was_given() {
        let base = Url::new("http", "10.0.0.1", 8080, "/a/b?q=1");
        for (location, expected, relative) in [
            ("/x?y=z", "http://10.0.0.1:8080/x?y=z", true),
            ("x", "http://10.0.0.1:8080/a/x", true),
            ("../x/./y/..", "http://10.0.0.1:8080/x/", true),
            ("?z", "http://10.0.0.1:8080/a/b?z", true),
            ("//10.0.0.1/x", "http://10.0.0.1/x", true),
            ("https://10.0.0.1:8443/x", "https://10.0.0.1:8443/x", false),
            ("HTTP://example.test", "http://example.test", false),
            (
                "http://u:p@[fd00::1]:8080/",
                "http://[fd00::1]:8080/",
                false,
            ),
            ("ftp://10.0.0.1/", "ftp://10.0.0.1/", false),
        ] {
            let (next, is_relative) = base.join(location).unwrap();
            assert_eq!(next.to_string(), expected, "{location}");
            assert_eq!(is_relative, relative, "{location}");
        }
        for location in ["http:x", "http://h:x/", "/%zz", "/\u{7f}", "http://[::1/"] {
            assert_eq!(base.join(location), None, "{location}");
        }
    }
}
