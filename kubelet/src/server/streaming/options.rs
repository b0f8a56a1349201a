//! What a request for a stream asks for. Pure; texts are upstream's.

use axum::http::{HeaderMap, header};

use super::super::query::Query;

/// Which streams of a command are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// A request that asks for nothing that there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionsError {
    #[error("you must specify at least 1 of stdin, stdout, stderr")]
    NoStream,
    #[error("query parameter \"port\" is required")]
    NoPort,
    #[error("query parameter \"port\" cannot be empty")]
    EmptyPort,
    #[error("unable to parse {0:?} as a port: {1}")]
    Port(String, &'static str),
    #[error("port {0:?} must be > 0")]
    PortZero(String),
}

impl Wanted {
    pub(super) fn of(query: &Query) -> Result<Self, OptionsError> {
        let is_set = |name| query.first(name) == Some("1");
        let tty = is_set("tty");
        let wanted = Self {
            stdin: is_set("input"),
            stdout: is_set("output"),
            // On a terminal both are one.
            stderr: is_set("error") && !tty,
            tty,
        };
        match wanted.stdin || wanted.stdout || wanted.stderr {
            true => Ok(wanted),
            false => Err(OptionsError::NoStream),
        }
    }
}

/// The ports that are named in a request, `port=80,81&port=82`. Over SPDY each stream names its own.
pub(super) fn ports(query: &Query, headers: &HeaderMap) -> Result<Vec<i32>, OptionsError> {
    if !is_websocket(headers) {
        return Ok(Vec::new());
    }
    let values = query.all("port");
    if values.is_empty() {
        return Err(OptionsError::NoPort);
    }
    let mut ports = Vec::new();
    for value in &values {
        if value.is_empty() {
            return Err(OptionsError::EmptyPort);
        }
        for port in value.split(',') {
            match parse_port(port) {
                Ok(0) => return Err(OptionsError::PortZero(value.clone())),
                Ok(number) => ports.push(i32::from(number)),
                Err(why) => return Err(OptionsError::Port(value.clone(), why)),
            }
        }
    }
    Ok(ports)
}

/// As Go's `strconv.ParseUint`, with the reason.
fn parse_port(text: &str) -> Result<u16, &'static str> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err("invalid syntax");
    }
    text.parse().map_err(|_| "value out of range")
}

/// Whether the client wants to speak something else than HTTP from here on.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let mut wishes = headers.get_all(header::CONNECTION).into_iter();
    wishes.any(|wish| {
        let wish = wish.as_bytes().to_ascii_lowercase();
        wish.windows(b"upgrade".len())
            .any(|part| part == b"upgrade")
    })
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE);
    is_upgrade(headers)
        && upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(upgrade: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONNECTION,
            HeaderValue::from_static("keep-alive, Upgrade"),
        );
        headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
        headers
    }

    #[test]
    fn one_stream_at_least() {
        let of = |query| Wanted::of(&Query::parse(Some(query)));
        let wanted = |stdin, stdout, stderr, tty| Wanted {
            stdin,
            stdout,
            stderr,
            tty,
        };
        assert_eq!(of("output=1&error=1"), Ok(wanted(false, true, true, false)));
        assert_eq!(
            of("input=1&output=1&error=1&tty=1"),
            Ok(wanted(true, true, false, true))
        );
        assert_eq!(of("output=true"), Err(OptionsError::NoStream));
        assert_eq!(of("error=1&tty=1"), Err(OptionsError::NoStream));
    }

    #[test]
    fn ports_are_of_a_websocket() {
        let of = |query, upgrade| ports(&Query::parse(Some(query)), &headers(upgrade));
        let text = |query| of(query, "websocket").unwrap_err().to_string();
        assert_eq!(of("port=80,81&port=82", "WebSocket"), Ok(vec![80, 81, 82]));
        assert_eq!(of("", "SPDY/3.1"), Ok(vec![]));
        assert_eq!(text(""), "query parameter \"port\" is required");
        assert_eq!(text("port="), "query parameter \"port\" cannot be empty");
        assert_eq!(text("port=0"), "port \"0\" must be > 0");
        assert!(text("port=80,x").starts_with("unable to parse \"80,x\" as a port: "));
        assert!(text("port=65536").ends_with("value out of range"));
        assert!(text("port=%2B80").ends_with("invalid syntax"));
    }

    #[test]
    fn an_upgrade_is_asked_for() {
        assert!(is_upgrade(&headers("SPDY/3.1")));
        assert!(!is_upgrade(&HeaderMap::new()));
    }
}
