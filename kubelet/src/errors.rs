//! The one formatter of error chains. An error's Display never repeats its source's text, so the chain is their sum.

use std::error::Error;

/// `what failed: why: why that`, outermost first.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Errors of other crates do repeat theirs.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the record")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("failed: {0}")]
    struct RepeatsItsSource(#[source] Outer);

    #[test]
    fn the_chain_is_outermost_first() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(error_chain(&error), "cannot read the record: disk on fire");
        let repeats = RepeatsItsSource(error);
        assert_eq!(
            error_chain(&repeats),
            "failed: cannot read the record: disk on fire"
        );
    }
}
