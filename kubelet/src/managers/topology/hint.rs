//! What a resource would have of the machine's NUMA nodes.

use super::NumaMask;

/// One way to give a resource: by which nodes, and whether it is as good as the machine allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The nodes it would come from; none where that does not matter.
    pub mask: Option<NumaMask>,
    /// No other way needs fewer nodes.
    pub preferred: bool,
}

impl Hint {
    /// Any node will do.
    pub const ANY: Self = Self {
        mask: None,
        preferred: true,
    };
    /// There is no way.
    pub const NONE: Self = Self {
        mask: None,
        preferred: false,
    };

    /// A way over the nodes of `mask`.
    #[must_use]
    pub fn over(mask: NumaMask, preferred: bool) -> Self {
        Self {
            mask: Some(mask),
            preferred,
        }
    }
}

/// The ways of one provider, by resource: `None` for a resource whose place does not matter, an empty list for one that
/// cannot be had. No resource at all says that nothing is asked of the provider.
pub type Hints = Vec<(String, Option<Vec<Hint>>)>;

/// The ways to give each resource, as the merge takes them.
pub(super) fn ways(providers: Vec<Hints>) -> Vec<Vec<Hint>> {
    let mut ways = Vec::new();
    for hints in providers {
        if hints.is_empty() {
            ways.push(vec![Hint::ANY]);
        }
        for (_, of_resource) in hints {
            ways.push(match of_resource {
                None => vec![Hint::ANY],
                Some(none) if none.is_empty() => vec![Hint::NONE],
                Some(some) => some,
            });
        }
    }
    ways
}
