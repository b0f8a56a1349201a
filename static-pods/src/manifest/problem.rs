//! What is said of a manifest: why it does not run, and what is odd in one that does.

use std::path::Path;
use std::sync::Arc;

use crate::object::ObjectKind;
use crate::tree::{self, DecodeError, PUT_IN_QUOTES, Position, Prefix};
use crate::validate::FieldError;

const HOLD_A_POD: &str = "a manifest holds apiVersion v1, kind Pod";
const SET_A_NAME: &str = "set metadata.name";
const SAY_THE_SOURCE: &str = "say where its files come from";
const LEAVE_UID_OUT: &str = "leave it out to have one made";
const REMOVE_ONE: &str = "remove one of them";
const SWITCH_ON: &str = "set staticPodObjects: Always in the file of --agent-config";
const MOVE_UP: &str = "put it into the manifest directory itself";
const REMOVE_FIRST: &str = "give it another name, or remove it first";
const UID_RULE: &str =
    "must be 1 to 128 characters of [A-Za-z0-9._-] that start with a letter or digit";

/// Why a file or a pod of it does not run: `<file>:<line>:<column>: <what>; <remedy>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{at}: {problem}", path.display())]
pub struct ManifestError {
    /// The file.
    pub path: Arc<Path>,
    /// Where in it.
    pub at: Position,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a manifest. Nothing of it passes without a change of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot read the manifest: {0}")]
    Unreadable(String),
    /// The file is not something that holds a manifest.
    #[error("{0}")]
    NotAManifest(String),
    /// The file is larger than a manifest may be.
    #[error("the file is larger than {} MiB", tree::MAX_BYTES >> 20)]
    TooLarge,
    /// The text is neither YAML nor JSON.
    #[error("{0}")]
    Syntax(String),
    /// The document is not a pod.
    #[error("{0}; {HOLD_A_POD}")]
    NotAPod(String),
    /// A value does not fit its field.
    #[error("{0}")]
    Decode(DecodeError),
    /// The pod has no name.
    #[error("invalid pod: name is needed for the pod; {SET_A_NAME}")]
    NoName,
    /// The pod's own UID cannot name its directory.
    #[error("metadata.uid: Invalid value: {0:?}: {UID_RULE}; {LEAVE_UID_OUT}")]
    Uid(String),
    /// A field breaks a rule of the API.
    #[error("{0}")]
    Field(FieldError),
    /// A ConfigMap or Secret, where none are taken.
    #[error(
        "a {} is not taken from manifests on a node with an API server, or with staticPodObjects: Never; {SWITCH_ON}",
        .0.as_str()
    )]
    ObjectsOff(ObjectKind),
    /// A pod in the directory of objects.
    #[error("pods are not looked for in the directory of ConfigMaps and Secrets; {MOVE_UP}")]
    PodAmongObjects,
    /// The object has no name.
    #[error("invalid {}: name is needed; {SET_A_NAME}", .0.as_str())]
    Nameless(ObjectKind),
    /// A Secret in a file that others than root may read.
    #[error("{object} is refused, because {why}; {remedy}")]
    NotPrivate {
        /// The Secret.
        object: String,
        /// Who else may.
        why: String,
        /// The command that mends it.
        remedy: String,
    },
    /// Another content of an object that says that it never changes.
    #[error(
        "{field}: Forbidden: field is immutable when `immutable` is set: {object} stays as it was; {REMOVE_FIRST}"
    )]
    Immutable {
        /// The field that is another.
        field: &'static str,
        /// The object.
        object: String,
    },
    /// The pod refers to something only an API server has.
    #[error("{path}: static pods may not reference {object}")]
    Reference {
        /// The field that does.
        path: String,
        /// What it refers to, in upstream's words.
        object: &'static str,
    },
    /// A source of a projected volume says nothing.
    #[error("{path}: unknown source for projected volume {volume:?}; {SAY_THE_SOURCE}")]
    NoSource {
        /// The source.
        path: String,
        /// The volume.
        volume: String,
    },
    /// The agent would not run the pod.
    #[error("{}{message}", Prefix(field))]
    Refused {
        /// The field that keeps it from running; empty for the pod as a whole.
        field: String,
        /// Why.
        message: String,
    },
    /// Another file or document has the same pod or object and comes later.
    #[error("{what} is also in {winner}, which is the one that counts; {REMOVE_ONE}")]
    Duplicate {
        /// The pod or object.
        what: String,
        /// Where the other one is.
        winner: String,
    },
    /// Another pod has the same UID.
    #[error("metadata.uid: Duplicate value: {uid:?}: {winner} has it too; {LEAVE_UID_OUT}")]
    SameUid {
        /// The UID.
        uid: String,
        /// Where the other pod is.
        winner: String,
    },
}

/// Something odd in a manifest that runs all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{at}: {}{message}", path.display(), Prefix(field))]
pub struct ManifestWarning {
    /// The file.
    pub path: Arc<Path>,
    /// Where in it.
    pub at: Position,
    /// The field; empty when it is none.
    pub field: String,
    /// What is odd.
    pub message: String,
}

impl ManifestError {
    /// Whether it is one between pods, not one of a file.
    #[must_use]
    pub fn is_clash(&self) -> bool {
        matches!(
            self.problem,
            Problem::Duplicate { .. } | Problem::SameUid { .. }
        )
    }
}

impl Problem {
    /// The field it is about; empty when it is about no field.
    #[must_use]
    pub fn field(&self) -> &str {
        match self {
            Self::Unreadable(_)
            | Self::NotAManifest(_)
            | Self::TooLarge
            | Self::Syntax(_)
            | Self::NotAPod(_)
            | Self::ObjectsOff(_)
            | Self::PodAmongObjects
            | Self::NotPrivate { .. }
            | Self::Duplicate { .. } => "",
            Self::Decode(e) => &e.path,
            Self::NoName | Self::Nameless(_) => "metadata.name",
            Self::Immutable { field, .. } => field,
            Self::Uid(_) | Self::SameUid { .. } => "metadata.uid",
            Self::Field(e) => &e.path,
            Self::Reference { path, .. } | Self::NoSource { path, .. } => path,
            Self::Refused { field, .. } => field,
        }
    }

    /// What to do about it, where that goes without knowing what was meant.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        let remedy = match self {
            Self::NotPrivate { remedy, .. } => remedy,
            Self::NotAPod(_) => HOLD_A_POD,
            Self::NoName | Self::Nameless(_) => SET_A_NAME,
            Self::NoSource { .. } => SAY_THE_SOURCE,
            Self::ObjectsOff(_) => SWITCH_ON,
            Self::PodAmongObjects => MOVE_UP,
            Self::Immutable { .. } => REMOVE_FIRST,
            Self::Uid(_) | Self::SameUid { .. } => LEAVE_UID_OUT,
            Self::Duplicate { .. } => REMOVE_ONE,
            Self::Decode(e) if e.message.ends_with(PUT_IN_QUOTES) => PUT_IN_QUOTES,
            _ => return None,
        };
        Some(remedy)
    }

    /// What is wrong, without the field and the remedy.
    #[must_use]
    pub fn message(&self) -> String {
        let text = self.to_string();
        let mut message = text.as_str();
        if let Some(rest) = message.strip_prefix(self.field()) {
            message = rest.strip_prefix(": ").unwrap_or(message);
        }
        if let Some(remedy) = self.remedy()
            && let Some(rest) = message.strip_suffix(remedy)
        {
            message = rest.strip_suffix("; ").unwrap_or(message);
        }
        message.to_owned()
    }
}
