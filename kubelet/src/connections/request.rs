//! From an `httpGet` of a manifest to a request. Pure.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};

use super::Manner;
use super::port::{PortError, port_of};
use super::url::Url;
use crate::runtime::convert::go_quote;

/// A GET request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpRequest {
    pub(super) url: Url,
    /// As the manifest has them.
    headers: Vec<(String, String)>,
    pub(super) manner: &'static Manner,
}

/// A header that cannot be sent. Display is Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("net/http: invalid header field name {}", go_quote(.0))]
    Name(String),
    #[error("net/http: invalid header field value for {}", go_quote(.0))]
    Value(String),
    #[error("http: invalid Host header")]
    Host,
}

/// What is sent beside the request line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    fields: HeaderMap,
    /// The `Host` header; the URL's host where there is none.
    pub(super) host: Option<HeaderValue>,
}

/// The host that a handler names, or the pod's address.
pub(crate) fn host_of<'a>(host: Option<&'a str>, ip: &'a str) -> &'a str {
    host.filter(|host| !host.is_empty()).unwrap_or(ip)
}

impl HttpRequest {
    /// The request of a handler of `container`, whose pod has the address `ip`.
    ///
    /// # Errors
    /// When its port is none.
    pub(crate) fn new(
        action: &HTTPGetAction,
        container: &Container,
        ip: &str,
        manner: &'static Manner,
    ) -> Result<Self, PortError> {
        let scheme = action.scheme.as_deref().filter(|scheme| !scheme.is_empty());
        let url = Url::new(
            &scheme.unwrap_or("http").to_ascii_lowercase(),
            host_of(action.host.as_deref(), ip),
            port_of(&action.port, container)?,
            action.path.as_deref().unwrap_or_default(),
        );
        let headers = action.http_headers.iter().flatten();
        Ok(Self {
            url,
            headers: headers.map(|h| (h.name.clone(), h.value.clone())).collect(),
            manner,
        })
    }

    /// The host and port that are asked, as upstream's messages name them.
    pub(crate) fn authority(&self) -> String {
        self.url.authority()
    }

    /// The same without TLS, and without what only TLS may carry.
    pub(crate) fn over_plain_http(mut self) -> Self {
        "http".clone_into(&mut self.url.scheme);
        self.headers
            .retain(|(name, _)| !name.eq_ignore_ascii_case("Authorization"));
        self
    }

    /// What is sent, defaults included.
    pub(super) fn headers(&self) -> Result<Headers, HeaderError> {
        let mut fields = HeaderMap::new();
        for (name, value) in &self.headers {
            let key = HeaderName::try_from(name.as_str());
            let key = key.map_err(|_| HeaderError::Name(name.clone()))?;
            let value = HeaderValue::try_from(value.as_str());
            let value = value.map_err(|_| HeaderError::Value(canonical(name)))?;
            fields.append(key, value);
        }
        let host = fields.remove(header::HOST).filter(|host| !host.is_empty());
        // They say how the request is sent, and Go's client knows that better than a manifest.
        for name in [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::TRAILER,
        ] {
            fields.remove(name);
        }
        let defaults = [
            (header::USER_AGENT, self.manner.user_agent),
            (header::ACCEPT, "*/*"),
        ];
        for (name, default) in defaults {
            match fields.get(&name).map(HeaderValue::is_empty) {
                None => {
                    fields.insert(name, HeaderValue::from_static(default));
                }
                // Set to nothing, it is not sent.
                Some(true) => {
                    fields.remove(name);
                }
                Some(false) => {}
            }
        }
        let asks = |name: HeaderName| fields.get(name).is_some_and(|value| !value.is_empty());
        if self.manner.gzip && !asks(header::ACCEPT_ENCODING) && !asks(header::RANGE) {
            fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if self.manner.close {
            fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(Headers { fields, host })
    }
}

impl Headers {
    /// All fields of a request to `url`.
    pub(super) fn with(&self, url: &Url, referer: Option<&str>) -> Result<HeaderMap, HeaderError> {
        let mut fields = HeaderMap::with_capacity(self.fields.len() + 2);
        let host = match &self.host {
            Some(host) => host.clone(),
            None => HeaderValue::try_from(url.authority()).map_err(|_| HeaderError::Host)?,
        };
        fields.insert(header::HOST, host);
        fields.extend(self.fields.clone());
        if let Some(referer) = referer
            && !fields.contains_key(header::REFERER)
            && let Ok(referer) = HeaderValue::try_from(referer)
        {
            fields.insert(header::REFERER, referer);
        }
        Ok(fields)
    }
}

/// The name of a header as Go's `textproto.CanonicalMIMEHeaderKey` has it: the first letter and those behind a hyphen
/// are capitals.
fn canonical(name: &str) -> String {
    let mut begins = true;
    let letter = |c: char| {
        let canonical = match begins {
            true => c.to_ascii_uppercase(),
            false => c.to_ascii_lowercase(),
        };
        begins = c == '-';
        canonical
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests;
