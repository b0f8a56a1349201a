//! The number of a handler's port.

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::runtime::convert::go_quote;

/// A port that is none. Display is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortError {
    /// A name that no port of the container has, and no number either.
    #[error("strconv.Atoi: parsing {}: invalid syntax", go_quote(.0))]
    Unknown(String),
    /// Not within 1 to 65535.
    #[error("invalid port number: {0}")]
    Number(i64),
}

/// The number of a port that is given by number, by the name it has in the container, or by a number as text.
///
/// # Errors
/// When it is none.
pub(crate) fn port_of(port: &IntOrString, container: &Container) -> Result<u16, PortError> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|port| port.name.as_deref() == Some(name)) {
                Some(port) => i64::from(port.container_port),
                None => name.parse().map_err(|_| PortError::Unknown(name.clone()))?,
            }
        }
    };
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(PortError::Number(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerPort;

    #[test]
    fn ports_are_numbers_names_and_numbers_as_text() {
        let container = Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".into()),
                container_port: 8080,
                ..ContainerPort::default()
            }]),
            ..Container::default()
        };
        let resolve = |port: IntOrString| port_of(&port, &container).map_err(|e| e.to_string());
        let text = |text: &str| IntOrString::String(text.into());
        assert_eq!(resolve(IntOrString::Int(80)), Ok(80));
        assert_eq!(resolve(IntOrString::Int(65_535)), Ok(65_535));
        assert_eq!(resolve(text("web")), Ok(8080));
        assert_eq!(resolve(text("81")), Ok(81));
        let fails = |port, expected: &str| assert_eq!(resolve(port), Err(expected.to_owned()));
        fails(text("db"), "strconv.Atoi: parsing \"db\": invalid syntax");
        fails(IntOrString::Int(0), "invalid port number: 0");
        fails(text("65536"), "invalid port number: 65536");
        fails(IntOrString::Int(-1), "invalid port number: -1");
        fails(text("-1"), "invalid port number: -1");
    }
}
