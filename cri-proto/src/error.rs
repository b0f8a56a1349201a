//! The one error of every CRI call.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};

use crate::connection::NotConnected;

/// Bytes kept of what the runtime said; the rest is cut off, with a mark.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// What a client says when its own deadline is over, so that messages read as upstream's do.
const DEADLINE_TEXT: &str = "context deadline exceeded";

/// What containerd says between opening its socket and having read back its state; it gives no code for it.
const STARTING_TEXT: &str = "server is not initialized yet";

/// A CRI call that failed: which one, why, and what the runtime said.
///
/// Shown as `<method>: <message>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CriError {
    method: &'static str,
    kind: CriErrorKind,
    code: Code,
    message: Box<str>,
    delivered: bool,
}

/// Why a call failed, as far as one acts on it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CriErrorKind {
    /// The runtime does not know the sandbox, container or image.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// The name belongs to another object, which may be one whose creation this client stopped waiting for.
    NameReserved {
        /// The id of that object, where the runtime gave it.
        holder: Option<Box<str>>,
    },
    /// No answer within the deadline of the call. Whether the runtime did as asked is unknown.
    DeadlineExceeded,
    /// The runtime is not there, went away during the call, or is still starting.
    Unavailable,
    /// The runtime does not have this call.
    Unimplemented,
    /// Too much of something, an answer above the receive limit included.
    ResourceExhausted,
    /// The runtime refuses the request as it stands.
    InvalidArgument,
    /// The call was given up, by the runtime or on the way.
    Cancelled,
    /// Anything else; most failures of containerd come without a code.
    Other,
}

/// When asking again makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Once one has looked at what the runtime holds now: what this call was based on is out of date.
    Now,
    /// After a back-off.
    Backoff,
    /// Not before the request or the runtime is another.
    OnChange,
}

impl CriError {
    /// An error of `method` as if the runtime had sent it; for fakes.
    #[must_use]
    pub fn new(method: &'static str, kind: CriErrorKind, message: &str) -> Self {
        let code = match kind {
            CriErrorKind::NotFound => Code::NotFound,
            CriErrorKind::AlreadyExists => Code::AlreadyExists,
            CriErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
            CriErrorKind::Unavailable => Code::Unavailable,
            CriErrorKind::Unimplemented => Code::Unimplemented,
            CriErrorKind::ResourceExhausted => Code::ResourceExhausted,
            CriErrorKind::InvalidArgument => Code::InvalidArgument,
            CriErrorKind::Cancelled => Code::Cancelled,
            CriErrorKind::NameReserved { .. } | CriErrorKind::Other => Code::Unknown,
        };
        Self {
            method,
            kind,
            code,
            message: bounded(message),
            delivered: true,
        }
    }

    /// An answer that lacks what it must have.
    pub(crate) fn malformed(method: &'static str, what: &str) -> Self {
        Self::new(
            method,
            CriErrorKind::Other,
            &format!("the runtime's answer has no {what}"),
        )
    }

    /// The client's own deadline is over.
    pub(crate) fn deadline(method: &'static str, after: Duration) -> Self {
        tracing::debug!(method, ?after, "no answer from the runtime");
        Self::new(method, CriErrorKind::DeadlineExceeded, DEADLINE_TEXT)
    }

    pub(crate) fn from_status(method: &'static str, status: &Status) -> Self {
        // A status with a source was made on this side of the socket.
        if let Some(source) = status.source() {
            return Self::from_transport(method, status.code(), source);
        }
        let message = status.message();
        let kind = match status.code() {
            _ if is_name_reserved(message) => CriErrorKind::NameReserved {
                holder: reserved_holder(message),
            },
            Code::NotFound => CriErrorKind::NotFound,
            Code::AlreadyExists => CriErrorKind::AlreadyExists,
            Code::DeadlineExceeded => CriErrorKind::DeadlineExceeded,
            Code::Unavailable => CriErrorKind::Unavailable,
            Code::Unimplemented => CriErrorKind::Unimplemented,
            // The decoder says OutOfRange of a message above the limit.
            Code::ResourceExhausted | Code::OutOfRange => CriErrorKind::ResourceExhausted,
            Code::InvalidArgument => CriErrorKind::InvalidArgument,
            Code::Cancelled => CriErrorKind::Cancelled,
            // The connection ended between the answer's headers and its status.
            Code::Unknown if message.contains("missing grpc-status trailer") => {
                CriErrorKind::Unavailable
            }
            Code::Unknown if message.contains(STARTING_TEXT) => CriErrorKind::Unavailable,
            _ => CriErrorKind::Other,
        };
        Self {
            method,
            kind,
            code: status.code(),
            message: bounded(message),
            delivered: true,
        }
    }

    fn from_transport(method: &'static str, code: Code, source: &(dyn Error + 'static)) -> Self {
        let mut texts: Vec<String> = Vec::new();
        let mut link = Some(source);
        while let Some(error) = link {
            if error.is::<tonic::TimeoutExpired>() {
                return Self::new(method, CriErrorKind::DeadlineExceeded, DEADLINE_TEXT);
            }
            if let Some(error) = error.downcast_ref::<NotConnected>() {
                return Self {
                    delivered: false,
                    ..Self::new(method, CriErrorKind::Unavailable, &error.to_string())
                };
            }
            let text = error.to_string();
            // Wrappers repeat the text of what they wrap.
            if !texts.iter().any(|have| have.contains(&text)) {
                texts.push(text);
            }
            link = error.source();
        }
        tracing::debug!(
            method,
            code = code_name(code),
            "the connection to the runtime broke"
        );
        Self::new(method, CriErrorKind::Unavailable, &texts.join(": "))
    }

    /// The name of the call, as in the interface: `RunPodSandbox`.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// Why it failed.
    #[must_use]
    pub fn kind(&self) -> &CriErrorKind {
        &self.kind
    }

    /// What the runtime said, at most [`MAX_MESSAGE_BYTES`].
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The text as a Go client prints it, `rpc error: code = NotFound desc = …`: what upstream puts into events and
    /// container messages.
    #[must_use]
    pub fn rpc_text(&self) -> String {
        format!(
            "rpc error: code = {} desc = {}",
            code_name(self.code),
            self.message
        )
    }

    /// Whether the runtime gave no code of its own; upstream then drops the `rpc error:` prefix of a failed pull.
    #[must_use]
    pub fn is_code_unknown(&self) -> bool {
        self.code == Code::Unknown
    }

    /// The runtime does not know the object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == CriErrorKind::NotFound
    }

    /// The runtime is away or starting.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.kind == CriErrorKind::Unavailable
    }

    /// The runtime does not have the call.
    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        self.kind == CriErrorKind::Unimplemented
    }

    /// Whether the runtime may have done, or may still be doing, what was asked: list and adopt before asking again.
    /// False only where the runtime said no, or the request never left.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self.kind {
            CriErrorKind::DeadlineExceeded | CriErrorKind::Cancelled => true,
            CriErrorKind::Unavailable => self.delivered,
            _ => false,
        }
    }

    /// When asking again makes sense.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self.kind {
            CriErrorKind::NotFound
            | CriErrorKind::AlreadyExists
            | CriErrorKind::NameReserved { .. } => Retry::Now,
            CriErrorKind::Unimplemented | CriErrorKind::InvalidArgument => Retry::OnChange,
            CriErrorKind::DeadlineExceeded
            | CriErrorKind::Unavailable
            | CriErrorKind::ResourceExhausted
            | CriErrorKind::Cancelled
            | CriErrorKind::Other => Retry::Backoff,
        }
    }
}

impl fmt::Display for CriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.method, self.message)
    }
}

impl Error for CriError {}

/// The spelling of grpc-go's `codes.Code`.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// containerd: `name "<name>" is reserved for "<id>"`. CRI-O: `name is reserved`.
fn is_name_reserved(message: &str) -> bool {
    message.contains("\" is reserved for \"") || message.contains("name is reserved")
}

fn reserved_holder(message: &str) -> Option<Box<str>> {
    let (_, rest) = message.rsplit_once("\" is reserved for \"")?;
    let (id, _) = rest.split_once('"')?;
    (!id.is_empty()).then(|| id.into())
}

fn bounded(message: &str) -> Box<str> {
    if message.len() <= MAX_MESSAGE_BYTES {
        return message.into();
    }
    const MARK: &str = " … (cut)";
    let mut end = MAX_MESSAGE_BYTES - MARK.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MARK}", &message[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, message: &str) -> CriError {
        CriError::from_status("CreateContainer", &Status::new(code, message))
    }

    #[test]
    fn codes_become_kinds() {
        use CriErrorKind as K;
        let cases = [
            (Code::NotFound, "x", K::NotFound, Retry::Now),
            (Code::AlreadyExists, "x", K::AlreadyExists, Retry::Now),
            (
                Code::DeadlineExceeded,
                "x",
                K::DeadlineExceeded,
                Retry::Backoff,
            ),
            (Code::Unavailable, "x", K::Unavailable, Retry::Backoff),
            (Code::Unimplemented, "x", K::Unimplemented, Retry::OnChange),
            (
                Code::ResourceExhausted,
                "x",
                K::ResourceExhausted,
                Retry::Backoff,
            ),
            (
                Code::OutOfRange,
                "message length too large",
                K::ResourceExhausted,
                Retry::Backoff,
            ),
            (
                Code::InvalidArgument,
                "x",
                K::InvalidArgument,
                Retry::OnChange,
            ),
            (Code::Cancelled, "x", K::Cancelled, Retry::Backoff),
            (
                Code::Unknown,
                "failed to setup network",
                K::Other,
                Retry::Backoff,
            ),
            (
                Code::Unknown,
                "server is not initialized yet",
                K::Unavailable,
                Retry::Backoff,
            ),
            (Code::PermissionDenied, "x", K::Other, Retry::Backoff),
        ];
        for (code, message, kind, retry) in cases {
            let error = of(code, message);
            assert_eq!(
                (error.kind(), error.retry()),
                (&kind, retry),
                "{code:?} {message}"
            );
        }
    }

    #[test]
    fn holder_of_a_reserved_name() {
        let id = "4f1c0a";
        let error = of(
            Code::Unknown,
            &format!(
                "failed to reserve container name \"c_p_ns_u_0\": name \"c_p_ns_u_0\" is reserved for \"{id}\""
            ),
        );
        let holder = Some(id.into());
        assert_eq!(error.kind(), &CriErrorKind::NameReserved { holder });
        let error = of(
            Code::Unknown,
            "error reserving ctr name k8s_c for id 12: name is reserved",
        );
        assert_eq!(error.kind(), &CriErrorKind::NameReserved { holder: None });
        assert!(!error.outcome_unknown());
    }

    #[test]
    fn texts() {
        let error = of(Code::NotFound, "no such container");
        assert_eq!(error.to_string(), "CreateContainer: no such container");
        assert_eq!(
            error.rpc_text(),
            "rpc error: code = NotFound desc = no such container"
        );
        let error = CriError::deadline("PullImage", Duration::from_secs(1));
        assert_eq!(
            error.rpc_text(),
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        );
        assert!(error.outcome_unknown());
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = of(Code::Unknown, &"ä".repeat(MAX_MESSAGE_BYTES));
        assert!(error.message().len() <= MAX_MESSAGE_BYTES);
        assert!(
            error.message().ends_with("ä … (cut)"),
            "{}",
            &error.message()[16_300..]
        );
        let exact = "x".repeat(MAX_MESSAGE_BYTES);
        assert_eq!(of(Code::Unknown, &exact).message(), exact);
    }
}
