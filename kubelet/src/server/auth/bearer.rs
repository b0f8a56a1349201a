//! Who a client is by a bearer token.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::answers::{Answers, Why};
use super::review::Reviewer;
use super::user::{User, sha256};
use crate::clock::Clock;

/// What a browser, which can set no header, sends a token by (upstream's `request/websocket/protocol.go`).
const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Asks the API server whose tokens are. Tokens themselves are not kept.
pub(super) struct Tokens {
    reviewer: Reviewer,
    holds: Duration,
    users: Answers<Option<User>>,
}

impl Tokens {
    pub(super) fn new(reviewer: Reviewer, holds: Duration, clock: Clock) -> Self {
        Self {
            reviewer,
            holds,
            users: Answers::new(clock),
        }
    }

    /// Whose token `request` has; none for a request without. The token goes out of a request that has a good one:
    /// nobody further on has use for it.
    ///
    /// # Errors
    /// When the token is nobody's, or nobody can say.
    pub(super) async fn user(&self, request: &mut Request) -> Result<Option<User>, Why> {
        let mut wrong = None;
        if let Some(token) = of_header(request.headers()) {
            match self.review(token).await {
                Ok(user) => {
                    request.headers_mut().remove(header::AUTHORIZATION);
                    return Ok(Some(user));
                }
                Err(why) => wrong = Some(why),
            }
        }
        if let Some((token, rest)) = of_protocols(request.headers())? {
            match self.review(&token).await {
                Ok(user) => {
                    let headers = request.headers_mut();
                    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, rest);
                    return Ok(Some(user));
                }
                Err(why) => wrong = Some(why),
            }
        }
        wrong.map_or(Ok(None), Err)
    }

    async fn review(&self, token: &str) -> Result<User, Why> {
        let (reviewer, holds) = (self.reviewer.clone(), self.holds);
        let asked = token.to_owned();
        let ask = async move { Ok((reviewer.token(&asked).await?, holds)) };
        let user = self.users.get(&sha256(token.as_bytes()), ask).await?;
        user.ok_or_else(|| "invalid bearer token".into())
    }
}

/// The token of the `Authorization` header.
fn of_header(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let mut parts = value.split(' ');
    let (scheme, token) = (parts.next()?, parts.next()?);
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The token of a WebSocket's protocols, and the protocols without it.
fn of_protocols(headers: &HeaderMap) -> Result<Option<(String, HeaderValue)>, Why> {
    let has = |name, word: &str| {
        let values = headers.get_all(name).iter();
        let mut words = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        words.any(|own| own.trim().eq_ignore_ascii_case(word))
    };
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Ok(None);
    }
    let (mut token, mut others) = (None, Vec::new());
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    for protocol in values.flat_map(|value| value.split(',')).map(str::trim) {
        match protocol.strip_prefix(PROTOCOL) {
            None => others.push(protocol),
            Some(_) if token.is_some() => {
                return Err("multiple base64.bearer.authorization tokens specified".into());
            }
            Some(encoded) => token = Some(encoded),
        }
    }
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return Ok(None);
    };
    let decoded = URL_SAFE_NO_PAD.decode(token);
    let decoded = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.ok_or("invalid base64.bearer.authorization token encoding")?;
    if others.is_empty() {
        return Err("missing additional subprotocol".into());
    }
    // What came as headers goes into one.
    let rest = HeaderValue::from_str(&others.join(",")).map_err(|error| error.to_string())?;
    Ok(Some((decoded, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_comes_behind_the_word_bearer() {
        for (value, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("  BEARER abc  ", Some("abc")),
            ("Bearer abc def", Some("abc")),
            ("Bearer", None),
            ("Bearer  abc", None),
            ("Basic abc", None),
            ("", None),
        ] {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(of_header(&headers), expected, "{value:?}");
        }
    }

    #[test]
    fn a_websocket_has_it_among_its_protocols() {
        let upgrade = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ];
        let with = |protocols: &'static [&'static str]| {
            let mut pairs = upgrade.to_vec();
            pairs.extend(protocols.iter().map(|&p| ("sec-websocket-protocol", p)));
            of_protocols(&headers(&pairs))
        };
        // "secret" in base64.
        let found = with(&[
            "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0",
            "channel.k8s.io",
        ]);
        let (token, rest) = found.unwrap().unwrap();
        assert_eq!(
            (&*token, rest.to_str().unwrap()),
            ("secret", "v4.channel.k8s.io,channel.k8s.io")
        );
        assert!(with(&["v4.channel.k8s.io"]).unwrap().is_none());
        let alone = with(&["base64url.bearer.authorization.k8s.io.c2VjcmV0"]);
        assert_eq!(&*alone.unwrap_err(), "missing additional subprotocol");
        let broken = with(&["a, base64url.bearer.authorization.k8s.io.c2Vjc==="]);
        assert!(broken.unwrap_err().contains("encoding"));
        let twice = with(&[
            "a, base64url.bearer.authorization.k8s.io.c2VjcmV0",
            "base64url.bearer.authorization.k8s.io.c2VjcmV0",
        ]);
        assert!(twice.unwrap_err().starts_with("multiple"));
        let plain = headers(&[(
            "sec-websocket-protocol",
            "a, base64url.bearer.authorization.k8s.io.c2VjcmV0",
        )]);
        assert!(of_protocols(&plain).unwrap().is_none(), "no WebSocket");
    }
}
