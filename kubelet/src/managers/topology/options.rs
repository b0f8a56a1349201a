//! `topologyManagerPolicyOptions`.

use std::collections::BTreeMap;

use crate::config::parse_bool;

/// The most NUMA nodes there may be unless an option allows more: with each, there are twice as many sets of them.
const DEFAULT_MAX_NUMA_NODES: usize = 8;

const PREFER_CLOSEST: &str = "prefer-closest-numa-nodes";
const MAX_NUMA_NODES: &str = "max-allowable-numa-nodes";

/// Why the topology manager cannot be had. In upstream's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// An option that there is not.
    #[error("unknown Topology Manager Policy option: {0:?}")]
    UnknownOption(String),
    /// A word that is neither true nor false.
    #[error(
        "bad value for option {option:?}: strconv.ParseBool: parsing {value:?}: invalid syntax"
    )]
    BadValue {
        /// The option.
        option: &'static str,
        /// What it was set to.
        value: String,
    },
    /// No number.
    #[error(
        "unable to convert policy option to integer {MAX_NUMA_NODES:?}: strconv.Atoi: parsing {0:?}: invalid syntax"
    )]
    NoNumber(String),
    /// A number that is too low.
    #[error(
        "the minimum value of {MAX_NUMA_NODES:?} should not be less than {DEFAULT_MAX_NUMA_NODES}"
    )]
    TooFew,
    /// More nodes than may be.
    #[error("unsupported on machines with more than {0} NUMA Nodes")]
    TooManyNodes(usize),
    /// The machine does not say how far its nodes are from each other.
    #[error("cannot discover NUMA topology: error getting NUMA distances from cadvisor")]
    NoDistances,
}

/// The options, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopologyOptions {
    /// `prefer-closest-numa-nodes`.
    pub prefer_closest: bool,
    /// `max-allowable-numa-nodes`.
    pub max_numa_nodes: usize,
}

impl Default for TopologyOptions {
    fn default() -> Self {
        Self {
            prefer_closest: false,
            max_numa_nodes: DEFAULT_MAX_NUMA_NODES,
        }
    }
}

impl TopologyOptions {
    /// Reads the options.
    ///
    /// # Errors
    /// For one that is not known, or has a value that it cannot have.
    pub fn parse(texts: &BTreeMap<String, String>) -> Result<Self, TopologyError> {
        let mut options = Self::default();
        for (name, value) in texts {
            match name.as_str() {
                PREFER_CLOSEST => {
                    options.prefer_closest =
                        parse_bool(value).ok_or_else(|| TopologyError::BadValue {
                            option: PREFER_CLOSEST,
                            value: value.clone(),
                        })?;
                }
                MAX_NUMA_NODES => {
                    let most = value.parse();
                    let most: i64 = most.map_err(|_| TopologyError::NoNumber(value.clone()))?;
                    options.max_numa_nodes = usize::try_from(most).unwrap_or(0);
                    if options.max_numa_nodes < DEFAULT_MAX_NUMA_NODES {
                        return Err(TopologyError::TooFew);
                    }
                    if options.max_numa_nodes > DEFAULT_MAX_NUMA_NODES {
                        tracing::warn!(
                            "{MAX_NUMA_NODES} is {most}: more than {DEFAULT_MAX_NUMA_NODES} NUMA nodes may make admission slow"
                        );
                    }
                }
                _ => return Err(TopologyError::UnknownOption(name.clone())),
            }
        }
        Ok(options)
    }
}
