//! The parameters of a request, decoded as Go's `url.Values` are. Pure.

use crate::connections::unescaped;

/// What stands behind the `?` of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query. A parameter that cannot be decoded is left out, as in Go.
    pub(super) fn parse(query: Option<&str>) -> Self {
        let parts = query.unwrap_or_default().split('&');
        let decoded = parts
            .filter(|part| !part.is_empty() && !part.contains(';'))
            .filter_map(|part| {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                Some((decode(name)?, decode(value)?))
            });
        Self(decoded.collect())
    }

    /// The first value of `name`.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| &**value)
    }

    /// All values of `name`.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        let found = self.0.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).collect()
    }
}

/// `%41` is `A`, `+` a blank. None where a `%` is followed by no number.
fn decode(text: &str) -> Option<String> {
    unescaped(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_kept_in_order() {
        let query = Query::parse(Some(
            "command=sh&command=-c&command=echo+%22a%26b%22%3b+%C3%A9&tty=1&input&x=%zz&a;b=1&=e",
        ));
        assert_eq!(query.all("command"), ["sh", "-c", "echo \"a&b\"; é"]);
        assert_eq!(query.first("tty"), Some("1"));
        assert_eq!(query.first("input"), Some(""));
        assert_eq!(query.first("x"), None, "it is no number");
        assert_eq!(query.first(""), Some("e"));
        assert!(query.all("nothing").is_empty());
        assert_eq!(Query::parse(None), Query::default());
        assert_eq!(decode("%"), None);
        assert_eq!(decode("%ff").as_deref(), Some("\u{fffd}"));
    }
}
