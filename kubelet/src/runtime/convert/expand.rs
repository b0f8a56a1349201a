//! `$(VAR)` in commands, arguments and environment variables.
//!
//! Source: the Kubernetes API reference, `Container.command`: `$(NAME)` is replaced where the name is known and stays
//! where it is not; `$$` is a dollar, so that `$$(NAME)` never is a reference.

/// Replaces the references in `text` by what `value_of` has for them.
pub(crate) fn expand<'a>(text: &str, value_of: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let reference = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'));
        let Some((name, after)) = reference else {
            // No reference: a dollar like any other character.
            out.push('$');
            rest = after;
            continue;
        };
        match value_of(name) {
            Some(value) => out.push_str(value),
            None => {
                out.push_str("$(");
                out.push_str(name);
                out.push(')');
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn references_escapes_and_the_rest() {
        let value_of = |name: &str| match name {
            "A" => Some("a"),
            "EMPTY" => Some(""),
            "DOLLAR" => Some("$(A)"),
            _ => None,
        };
        for (text, expanded) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "a"),
            ("x$(A)y$(A)z", "xayaz"),
            ("$(EMPTY)", ""),
            ("$(NONE)", "$(NONE)"),
            ("$()", "$()"),
            ("$(DOLLAR)", "$(A)"),
            ("$$", "$"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$(A)", "$$(A)"),
            ("$(A", "$(A"),
            ("$(A$(A)", "$(A$(A)"),
            ("$", "$"),
            ("a$", "a$"),
            ("$A", "$A"),
            ("$é$(A)", "$éa"),
            ("${A}", "${A}"),
            ("$($(A))", "$($(A))"),
            ("$(A))", "a)"),
        ] {
            assert_eq!(expand(text, value_of), expanded, "{text}");
        }
    }
}
