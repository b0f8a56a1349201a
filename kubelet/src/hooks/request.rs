//! From a hook's `httpGet` to a request. Pure.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Upstream's name of itself in a hook's request, at the version whose behaviour this agent has.
const USER_AGENT: &str = "kube-lifecycle/1.36";

/// One GET request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// Over TLS.
    pub tls: bool,
    /// A name or an address, an IPv6 one without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
    /// Path and query, which begins with a slash.
    pub target: String,
    /// Header fields in their order, `Host` included.
    pub headers: Vec<(String, String)>,
}

/// A request that cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// `port` is a name that no port of the container has, and no number either.
    #[error("strconv.Atoi: parsing \"{0}\": invalid syntax")]
    UnknownPort(String),
    /// `port` is not within 1 to 65535.
    #[error("invalid port number: {0}")]
    Port(i64),
}

impl HttpRequest {
    /// The request of a hook of `container`, to `host`.
    ///
    /// # Errors
    /// When its port is none.
    pub fn new(
        action: &HTTPGetAction,
        container: &Container,
        host: &str,
    ) -> Result<Self, RequestError> {
        let scheme = action.scheme.as_deref().unwrap_or_default();
        let mut request = Self {
            tls: scheme.eq_ignore_ascii_case("https"),
            host: host.to_owned(),
            port: port_of(&action.port, container)?,
            target: target(action.path.as_deref().unwrap_or_default()),
            headers: Vec::new(),
        };
        request.headers = request.headers_of(action);
        Ok(request)
    }

    fn headers_of(&self, action: &HTTPGetAction) -> Vec<(String, String)> {
        let own = action.http_headers.iter().flatten();
        let mut headers: Vec<(String, String)> =
            own.map(|h| (h.name.clone(), h.value.clone())).collect();
        let set = |headers: &[(String, String)], name: &str| {
            let mut fields = headers.iter();
            fields
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.clone())
        };
        let host = set(&headers, "Host").filter(|host| !host.is_empty());
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Host"));
        headers.insert(
            0,
            ("Host".to_owned(), host.unwrap_or_else(|| self.authority())),
        );
        // A field that is set and empty is left out, and no default takes its place.
        for (name, default) in [("User-Agent", USER_AGENT), ("Accept", "*/*")] {
            match set(&headers, name) {
                None => headers.push((name.to_owned(), default.to_owned())),
                Some(value) if value.is_empty() => {
                    headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
                }
                Some(_) => {}
            }
        }
        if set(&headers, "Accept-Encoding").is_none() {
            headers.push(("Accept-Encoding".to_owned(), "gzip".to_owned()));
        }
        headers
    }

    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// As a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.target)
    }

    /// The same without TLS, and without what only TLS may carry.
    #[must_use]
    pub fn over_plain_http(&self) -> Self {
        let mut plain = self.clone();
        plain.tls = false;
        let secret = |name: &str| name.eq_ignore_ascii_case("Authorization");
        plain.headers.retain(|(name, _)| !secret(name));
        plain
    }

    /// Where a redirect leads, when that is the same host; none for another host, or what is no URL.
    #[must_use]
    pub fn redirected(&self, location: &str) -> Option<Self> {
        let mut next = self.clone();
        let location = location.split('#').next().unwrap_or_default();
        let rest = if let Some(rest) = location.strip_prefix("http://") {
            next.tls = false;
            rest
        } else if let Some(rest) = location.strip_prefix("https://") {
            next.tls = true;
            rest
        } else if let Some(rest) = location.strip_prefix("//") {
            rest
        } else {
            next.target = join(&self.target, location);
            return Some(next);
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, if next.tls { 443 } else { 80 }),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if !bare.eq_ignore_ascii_case(&self.host) {
            return None;
        }
        next.port = port;
        next.target = self::target(target);
        let authority = next.authority();
        if let Some((_, host)) = next.headers.first_mut() {
            *host = authority;
        }
        Some(next)
    }
}

/// A relative reference, seen from `base` (RFC 3986, section 5.2, without `..`).
fn join(base: &str, reference: &str) -> String {
    let path = base.split('?').next().unwrap_or_default();
    match reference.chars().next() {
        Some('/') => target(reference),
        None => base.to_owned(),
        Some('?') => format!("{path}{reference}"),
        Some(_) => {
            let directory = path.rfind('/').map_or("", |at| &path[..at]);
            target(&format!("{directory}/{reference}"))
        }
    }
}

/// A port by number, or by the name that the container gives it; a name that is a number is that number.
fn port_of(port: &IntOrString, container: &Container) -> Result<u16, RequestError> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|p| p.name.as_deref() == Some(name)) {
                Some(port) => i64::from(port.container_port),
                None => name
                    .parse()
                    .map_err(|_| RequestError::UnknownPort(name.clone()))?,
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or(RequestError::Port(number))
}

/// Path and query for the request line. What is no path of a URL is taken literally, as upstream does.
fn target(path: &str) -> String {
    let whole = path.split('#').next().unwrap_or_default();
    let (path, query) = match whole.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (whole, None),
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut target = format!("{slash}{}", escaped(path, b"$&+,/:;=@-_.~!*'()[]%"));
    if let Some(query) = query {
        target.push('?');
        target.push_str(&escaped(query, b"$&+,/:;=@-_.~!*'()[]%?\"<>\\^`{|}"));
    }
    target
}

/// `text`, with whatever is neither a letter, a digit nor in `kept` as `%XX`. A `%` that begins no such triple is one.
fn escaped(text: &str, kept: &[u8]) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    for (at, byte) in bytes.iter().enumerate() {
        let is_triple = || {
            let hex = |n: usize| bytes.get(at + n).is_some_and(u8::is_ascii_hexdigit);
            hex(1) && hex(2)
        };
        if byte.is_ascii_alphanumeric() || kept.contains(byte) && (*byte != b'%' || is_triple()) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
