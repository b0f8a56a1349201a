//! What the pull policy makes of an image that is, or is not, on the machine.

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Pull at each start, whether or not the image is there.
    Always,
    /// Pull when it is not there.
    IfNotPresent,
    /// Never pull.
    Never,
}

/// What to do for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run what is there.
    Use,
    /// Pull it.
    Pull,
    /// Neither: it is not there and may not be pulled.
    NeverPull,
}

impl PullPolicy {
    /// Reads the field of a container whose defaults are set. What is not there reads as the API's default for
    /// `image`: `Always` for the tag `latest`, spelled out or not, else `IfNotPresent`.
    #[must_use]
    pub fn of(field: Option<&str>, image: &str) -> Self {
        match field {
            Some("Always") => Self::Always,
            Some("IfNotPresent") => Self::IfNotPresent,
            Some("Never") => Self::Never,
            _ if has_tag_latest(image) => Self::Always,
            _ => Self::IfNotPresent,
        }
    }

    /// Whether the decision hangs on the image being there.
    #[must_use]
    pub fn looks_first(self) -> bool {
        self != Self::Always
    }
}

fn has_tag_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// What to do for an image that is `present`, or not, under `policy`.
#[must_use]
pub fn decide(policy: PullPolicy, present: bool) -> Decision {
    match (policy, present) {
        (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, false) => Decision::Pull,
        (PullPolicy::IfNotPresent | PullPolicy::Never, true) => Decision::Use,
        (PullPolicy::Never, false) => Decision::NeverPull,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_and_presence_decide() {
        use {Decision::*, PullPolicy::*};
        for (policy, present, decision) in [
            (Always, true, Pull),
            (Always, false, Pull),
            (IfNotPresent, true, Use),
            (IfNotPresent, false, Pull),
            (Never, true, Use),
            (Never, false, NeverPull),
        ] {
            assert_eq!(decide(policy, present), decision, "{policy:?} {present}");
        }
    }

    #[test]
    fn an_unset_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", PullPolicy::Always),
            ("r.io:5000/nginx", PullPolicy::Always),
            ("nginx:latest", PullPolicy::Always),
            ("nginx:1", PullPolicy::IfNotPresent),
            ("nginx@sha256:abc", PullPolicy::IfNotPresent),
            ("nginx:latest@sha256:abc", PullPolicy::IfNotPresent),
        ] {
            assert_eq!(PullPolicy::of(None, image), policy, "{image}");
        }
        assert_eq!(PullPolicy::of(Some("Never"), "nginx"), PullPolicy::Never);
    }
}
