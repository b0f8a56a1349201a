//! Which images a pod needs no credentials for, though they are here. Pure.

use crate::images::ImageName;
use crate::images::name::bare_name;

/// `imagePullCredentialsVerificationPolicy`, with `preloadedImagesVerificationAllowlist`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VerificationPolicy {
    /// Whoever runs here may use what is here.
    NeverVerify,
    /// What the agent has not pulled is free.
    #[default]
    NeverVerifyPreloadedImages,
    /// The images of these patterns are free: a name without tag and digest, or the beginning of some before `/*`.
    NeverVerifyAllowlistedImages(Vec<String>),
    /// Nothing is free.
    AlwaysVerify,
}

impl VerificationPolicy {
    /// The policy called `name`; the default where there is none.
    #[must_use]
    pub fn of(name: &str, allowlist: &[String]) -> Self {
        match name {
            "NeverVerify" => Self::NeverVerify,
            "NeverVerifyAllowlistedImages" => {
                Self::NeverVerifyAllowlistedImages(allowlist.to_vec())
            }
            "AlwaysVerify" => Self::AlwaysVerify,
            _ => Self::NeverVerifyPreloadedImages,
        }
    }

    /// Whether a pod must show that it may use `image`, which the agent has pulled or not.
    pub(super) fn asks(&self, image: &str, pulled: bool) -> bool {
        match self {
            Self::NeverVerify => false,
            Self::NeverVerifyPreloadedImages => pulled,
            Self::NeverVerifyAllowlistedImages(patterns) => {
                let name = bare_name(image);
                !patterns
                    .iter()
                    .any(|pattern| match pattern.strip_suffix('*') {
                        Some(prefix) => name.starts_with(prefix),
                        None => name == pattern,
                    })
            }
            Self::AlwaysVerify => true,
        }
    }
}

/// What is wrong with a pattern of `preloadedImagesVerificationAllowlist`, in upstream's words.
#[must_use]
pub fn wrong_pattern(pattern: &str) -> Option<String> {
    if pattern != pattern.trim() {
        return Some(format!(
            "leading/trailing spaces are not allowed: {pattern}"
        ));
    }
    let prefix = match pattern.ends_with("/*") {
        true => pattern.strip_suffix('*'),
        false => None,
    };
    let bare = prefix.unwrap_or(pattern);
    if bare.is_empty() {
        return Some(format!("the supplied pattern is too short: {pattern}"));
    }
    if bare.contains('*') {
        return Some(format!(
            "not a valid wildcard pattern, only patterns ending with '/*' are allowed: {pattern}"
        ));
    }
    if let Some(prefix) = prefix {
        let short = prefix.len() == 1;
        return short.then(|| "at least registry hostname is required".to_owned());
    }
    if let Err(error) = ImageName::parse(bare) {
        return Some(format!("failed to parse as an image name: {error}"));
    }
    (bare_name(bare) != bare)
        .then(|| format!("neither tag nor digest is accepted in an image reference: {pattern}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_asks_for_its_images() {
        let allowed = ["r.io/team/*".to_owned(), "busybox".to_owned()];
        for (policy, image, pulled, asks) in [
            ("NeverVerify", "a", true, false),
            ("NeverVerifyPreloadedImages", "a", true, true),
            ("NeverVerifyPreloadedImages", "a", false, false),
            ("", "a", true, true),
            ("AlwaysVerify", "a", false, true),
            ("NeverVerifyAllowlistedImages", "a", false, true),
            ("NeverVerifyAllowlistedImages", "busybox:1", true, false),
            ("NeverVerifyAllowlistedImages", "busyboxes", true, true),
            (
                "NeverVerifyAllowlistedImages",
                "r.io/team/a/b:1",
                true,
                false,
            ),
            ("NeverVerifyAllowlistedImages", "r.io/teams/a", true, true),
        ] {
            let policy = VerificationPolicy::of(policy, &allowed);
            assert_eq!(policy.asks(image, pulled), asks, "{policy:?} {image}");
        }
    }

    #[test]
    fn patterns_are_refused_in_upstreams_words() {
        for (pattern, wrong) in [
            ("busybox", None),
            ("r.io:5000/a/b", None),
            ("r.io/*", None),
            (" a", Some("leading/trailing spaces are not allowed:  a")),
            ("", Some("the supplied pattern is too short: ")),
            (
                "a*",
                Some(
                    "not a valid wildcard pattern, only patterns ending with '/*' are allowed: a*",
                ),
            ),
            (
                "a/*/*",
                Some(
                    "not a valid wildcard pattern, only patterns ending with '/*' are allowed: a/*/*",
                ),
            ),
            ("/*", Some("at least registry hostname is required")),
            (
                "busybox:1",
                Some("neither tag nor digest is accepted in an image reference: busybox:1"),
            ),
        ] {
            assert_eq!(wrong_pattern(pattern).as_deref(), wrong, "{pattern}");
        }
        let no_name = wrong_pattern("a//b").unwrap();
        assert!(
            no_name.starts_with("failed to parse as an image name: "),
            "{no_name}"
        );
    }
}
