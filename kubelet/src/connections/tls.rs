//! HTTPS as probes and hooks speak it: whoever answers is believed.

use std::io;
use std::sync::{Arc, LazyLock};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, InvalidMessage, SignatureScheme,
    crypto::WebPkiSupportedAlgorithms,
};

use super::HANDSHAKE_PATIENCE;
use super::dial::errno_text;
use super::wire::FirstBytes;

/// A handshake that did not come about. Display is Go's, where that has usual words.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainHttp,
    #[error("net/http: TLS handshake timeout")]
    Late,
    #[error("{}", handshake_text(.0))]
    Failed(io::Error),
    #[error("{0}")]
    Name(String),
    #[error("tls: no supported versions satisfy MinVersion and MaxVersion")]
    Versions,
}

/// Made when the first HTTPS server is asked. None where the provider has no TLS version, which ring has.
static CONNECTOR: LazyLock<Option<TlsConnector>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let anyone = Arc::new(Anyone(provider.signature_verification_algorithms));
    let versions = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
        .with_safe_default_protocol_versions()
        .ok()?;
    let config = versions
        .dangerous()
        .with_custom_certificate_verifier(anyone)
        .with_no_client_auth();
    Some(TlsConnector::from(Arc::new(config)))
});

/// Has every server believed, whoever it says it is.
pub(crate) fn believe_anybody(provider: &CryptoProvider) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anyone(provider.signature_verification_algorithms))
}

/// Shakes hands with whoever answers as `host`.
pub(super) async fn secured(
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<FirstBytes<TcpStream>>, HandshakeError> {
    // Without a name none is sent, as with an address.
    let name = if host.is_empty() { "127.0.0.1" } else { host };
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| HandshakeError::Name(error.to_string()))?;
    let connector = CONNECTOR.as_ref().ok_or(HandshakeError::Versions)?;
    let handshake = connector.connect(name, FirstBytes::new(stream));
    let shaken = tokio::time::timeout(HANDSHAKE_PATIENCE, handshake.into_fallible()).await;
    match shaken.map_err(|_| HandshakeError::Late)? {
        Ok(stream) => Ok(stream),
        Err((_, stream)) if stream.is_plain_http() => Err(HandshakeError::PlainHttp),
        Err((error, _)) => Err(HandshakeError::Failed(error)),
    }
}

/// TLS over `stream` with whoever answers as `host`.
///
/// # Errors
/// When the handshake fails, in Go's words.
pub(crate) async fn believing(
    host: &str,
    stream: TcpStream,
) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    secured(host, stream).await.map_err(io::Error::other)
}

fn handshake_text(error: &io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Some(Error::AlertReceived(alert)) => format!("remote error: tls: {alert:?}"),
        Some(other) => format!("tls: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => errno_text(error),
    }
}

/// Takes every certificate, one of an old form too: nobody on the node can know those of pods. What is asked is whether
/// the server lives, or that it do something, not who it is.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
