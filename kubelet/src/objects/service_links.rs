//! Services as containers find them in their environment.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A transport protocol, as services have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    pub(super) fn of(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }

    /// In lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A service that containers find in their environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLink {
    /// Its name.
    pub name: Box<str>,
    /// Where it is reached.
    pub cluster_ip: IpAddr,
    /// Its ports in the order of its spec.
    pub ports: Vec<ServiceLinkPort>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLinkPort {
    /// Its name; empty where it has none.
    pub name: Box<str>,
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The services that a pod's containers find in their environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceLinks {
    /// The API server has not said yet which there are.
    NotYet,
    /// These.
    Known(Vec<ServiceLink>),
}
