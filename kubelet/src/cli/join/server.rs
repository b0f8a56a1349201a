//! Questions to an API server that this machine does not know yet, and what their failures mean.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use kube::core::Status;
use kube::{Client, Config};
use secrecy::SecretString;
use serde_json::Value;
use tokio_rustls::rustls::{self, CertificateError};

use super::failure::Failure;
use crate::api::{ClientOptions, Clients, Endpoint, Identity, Pem, Rates};
use crate::clock::Clock;
use crate::config::Rate;
use crate::errors::error_chain;

/// How long one answer may take, its connection included.
const PATIENCE: Duration = Duration::from_secs(10);
/// From this on a difference between two clocks is worth a word.
const CLOCKS_DIFFER: i64 = 60;

/// Whose certificate is believed.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// Anybody's.
    Anybody,
    /// Those of these authorities, PEM.
    Authority(Vec<u8>),
    /// Those that this host believes.
    Host,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) enum Credentials {
    /// Nobody.
    None,
    /// Whoever has the token.
    Token(SecretString),
    /// Whoever has the certificate's key; PEM.
    Certificate(Pem, Pem),
}

/// An API server, and how it is asked.
pub(super) struct Server {
    url: String,
    client: Client,
}

/// No answer that could be used.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// An error of the API.
    Status(Box<Status>),
    /// What is of no use to try again.
    Never(Failure),
    /// No connection, no answer in time.
    Later(String),
}

impl Server {
    /// Connects to nobody yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address or a certificate cannot be used.
    pub(super) async fn new(
        url: &str,
        trust: &Trust,
        credentials: &Credentials,
    ) -> Result<Self, Failure> {
        let address: Uri = url
            .parse()
            .map_err(|error| Failure::Usage(format!("{url:?} is no address: {error}")))?;
        let mut config = Config::new(address);
        config.accept_invalid_certs = matches!(trust, Trust::Anybody);
        if let Credentials::Token(token) = credentials {
            config.auth_info.token = Some(token.clone());
        }
        let endpoint = Endpoint {
            path: PathBuf::new(),
            config,
            authority: match trust {
                Trust::Authority(text) => {
                    Some(Pem::Data("certificate-authority-data", text.clone()))
                }
                Trust::Anybody | Trust::Host => None,
            },
            identity: match credentials {
                Credentials::Certificate(certificate, key) => Identity::Certificate {
                    certificate: certificate.clone(),
                    key: key.clone(),
                },
                Credentials::None | Credentials::Token(_) => Identity::None,
            },
            token_file: None,
        };
        Self::at(endpoint).await
    }

    /// The one of a kubeconfig.
    ///
    /// # Errors
    /// When a certificate cannot be used.
    pub(super) async fn at(endpoint: Endpoint) -> Result<Self, Failure> {
        let url = endpoint.config.cluster_url.to_string();
        let url = url.trim_end_matches('/').to_owned();
        let unlimited = Rate {
            per_second: None,
            burst: 1,
        };
        let options = ClientOptions {
            rates: Rates {
                requests: unlimited,
                events: unlimited,
            },
            heartbeat_deadline: PATIENCE,
            identity: None,
        };
        let clients = Clients::open(endpoint, options, Clock::system()).await;
        let clients = clients.map_err(|error| Failure::NotSetUp(error_chain(&error)))?;
        Ok(Self {
            url,
            client: clients.main,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// An object or list.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Unanswered> {
        let text = self.ask("GET", path).await?;
        serde_json::from_str(&text).map_err(|error| {
            Unanswered::Never(Failure::NotSetUp(format!("{path} is no JSON: {error}")))
        })
    }

    /// Whatever is there.
    pub(super) async fn text(&self, path: &str) -> Result<String, Unanswered> {
        self.ask("GET", path).await
    }

    /// Deletes an object.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Unanswered> {
        self.ask("DELETE", path).await.map(drop)
    }

    async fn ask(&self, method: &str, path: &str) -> Result<String, Unanswered> {
        let request = hyper::Request::builder().method(method).uri(path);
        let request = request
            .body(Vec::new())
            .map_err(|error| Unanswered::Later(error.to_string()))?;
        match tokio::time::timeout(PATIENCE, self.client.request_text(request)).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(self.judged(error)),
            Err(_) => Err(Unanswered::Later(format!(
                "no answer within {} s",
                PATIENCE.as_secs()
            ))),
        }
    }

    fn judged(&self, error: kube::Error) -> Unanswered {
        if let kube::Error::Api(status) = error {
            return match status.code {
                401 => Unanswered::Never(Failure::Unauthorized(status.message)),
                _ => Unanswered::Status(status),
            };
        }
        match tls_error(&error).and_then(|error| self.of_certificate(error)) {
            Some(failure) => Unanswered::Never(failure),
            None => Unanswered::Later(error_chain(&error)),
        }
    }

    /// What is wrong with the server's certificate, when that is what is wrong.
    fn of_certificate(&self, error: &rustls::Error) -> Option<Failure> {
        use CertificateError as Wrong;
        let rustls::Error::InvalidCertificate(wrong) = error else {
            return None;
        };
        let (server, why) = (self.url.clone(), error.to_string());
        Some(match wrong {
            Wrong::Expired
            | Wrong::ExpiredContext { .. }
            | Wrong::NotValidYet
            | Wrong::NotValidYetContext { .. } => Failure::Clock {
                server,
                here: crate::clock::system_wall(),
                there: String::new(),
                why,
            },
            _ => Failure::Authority { server, why },
        })
    }

    /// The failure for good.
    pub(super) fn failure(&self, unanswered: Unanswered) -> Failure {
        let server = self.url.clone();
        match unanswered {
            Unanswered::Never(failure) => failure,
            Unanswered::Later(why) => Failure::Unreachable { server, why },
            Unanswered::Status(status) => Failure::Refused {
                server,
                why: status.message,
            },
        }
    }

    /// How far the server's clock is ahead of this machine's, by the `Date` of an answer, when it is worth a word; seconds.
    pub(super) async fn clock_difference(&self) -> Option<i64> {
        let request = hyper::Request::builder()
            .uri("/livez")
            .body(kube::client::Body::from(Vec::new()))
            .ok()?;
        let asked = tokio::time::timeout(PATIENCE, self.client.send(request));
        let answer = asked.await.ok()?.ok()?;
        let date = answer.headers().get(hyper::header::DATE)?.to_str().ok()?;
        let there = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
        let ahead = there.as_second() - crate::clock::system_wall().as_second();
        (ahead.abs() >= CLOCKS_DIFFER).then_some(ahead)
    }
}

/// The error of TLS among the causes; those of I/O hide theirs.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<std::io::Error>();
        let inner = inner.and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
