//! The command line: flags as Go's pflag reads them, from a table.

mod shown;
mod syntax;
mod table;
mod usage;

#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::Value;

use super::fields;
use super::nearest::nearest;
pub use shown::FlagValues;
pub(crate) use syntax::boolean;
pub(crate) use table::FLAGS;
pub(crate) use usage::usage;

/// How the value of a flag is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    Bool,
    Int32,
    Int64,
    Uint32,
    Text,
    /// Commas between; repeated flags add up.
    Texts,
    Duration,
    Ip,
    Quantity,
    /// `k=v,k=v`; repeated flags add up.
    Pairs,
    /// `k=v`, commas belong to the value; repeated flags add up.
    PairsWhole,
    /// `k<v,k<v`; repeated flags add up.
    PairsBelow,
    /// `k=true,k=false`; repeated flags add up.
    PairsBool,
    /// `k=v,k`; repeated flags add up.
    Labels,
    /// `k:v,k:v`; a key may come again; repeated flags add up.
    Headers,
    /// `k=v:Effect,k:Effect`; the last flag counts.
    Taints,
    /// `0:memory=1Gi,hugepages-1Gi=1Gi;1:memory=1Gi`; repeated flags add up.
    ReservedMemory,
    /// `pattern=N,pattern=N`; the last flag counts.
    VModule,
    /// `true`, `false` or `raw`.
    Version,
}

/// What a flag sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The field at this path of KubeletConfiguration.
    Field(&'static str),
    /// Nothing of KubeletConfiguration.
    Own,
}

/// Whether a flag should no longer be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deprecation {
    None,
    /// The field of the file is to be used.
    UseFile,
    Because(&'static str),
}

/// The part of the help text a flag stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    General,
    Node,
    Pods,
    Server,
    Security,
    Images,
    Api,
    Resources,
    Managers,
    Eviction,
    Network,
    Logging,
    Leftover,
}

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) syntax: Syntax,
    pub(crate) target: Target,
    /// The default of a flag with [`Target::Own`], as it would be written.
    pub(crate) default: &'static str,
    pub(crate) deprecation: Deprecation,
    pub(crate) group: Group,
    pub(crate) help: &'static str,
    /// Whether the agent acts on a flag with [`Target::Own`].
    pub(crate) built: bool,
}

impl Flag {
    /// The warning for a deprecated flag that is set, in upstream's words.
    pub(crate) fn deprecation_warning(&self) -> Option<String> {
        let why = match self.deprecation {
            Deprecation::None => return None,
            Deprecation::Because(why) => why,
            Deprecation::UseFile => {
                "This parameter should be set via the config file specified by the Kubelet's --config flag. See https://kubernetes.io/docs/tasks/administer-cluster/kubelet-config-file/ for more information."
            }
        };
        Some(format!("Flag --{} has been deprecated, {why}", self.name))
    }
}

/// A flag that was given, with the value of all its occurrences.
pub(crate) struct Given {
    pub(crate) flag: &'static Flag,
    pub(crate) value: Value,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run the agent with these flags.
    Run(CommandLine),
    /// Print the help text.
    Help,
    /// Print the version; with all there is to know when `raw`.
    Version {
        /// Whether `--version=raw` was asked for.
        raw: bool,
    },
    /// One of the caller's subcommands, with the arguments behind it.
    Subcommand {
        /// Its name.
        name: String,
        /// What follows it.
        arguments: Vec<String>,
    },
}

/// The flags of one command line.
#[derive(Default)]
pub struct CommandLine {
    given: Vec<Given>,
}

impl fmt::Debug for CommandLine {
    /// The names alone: a value may be a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.given.iter().map(|given| given.flag.name))
            .finish()
    }
}

impl CommandLine {
    pub(crate) fn given(&self) -> &[Given] {
        &self.given
    }

    /// The text of a flag with [`Target::Own`]: what was given, or its default.
    pub(crate) fn text<'a>(&'a self, name: &str) -> &'a str {
        match self.value(name) {
            Some(value) => value.as_str().unwrap_or_default(),
            None => FLAGS
                .iter()
                .find(|flag| flag.name == name)
                .map_or("", |flag| flag.default),
        }
    }

    /// The value given for a flag.
    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        self.given
            .iter()
            .find(|given| given.flag.name == name)
            .map(|given| &given.value)
    }

    /// Whether a boolean flag is given and true.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some(&Value::Bool(true))
    }

    fn set(&mut self, flag: &'static Flag, text: &str, written: &str) -> Result<(), UsageError> {
        let index = self
            .given
            .iter()
            .position(|given| given.flag.name == flag.name);
        let before = index.map(|index| self.given.swap_remove(index).value);
        let value =
            syntax::read(flag.syntax, text, before).map_err(|why| UsageError::BadValue {
                text: match flag.syntax {
                    // A header may be a credential.
                    Syntax::Headers => "[redacted]".to_owned(),
                    _ => text.to_owned(),
                },
                flag: written.to_owned(),
                why,
            })?;
        self.given.push(Given { flag, value });
        Ok(())
    }
}

/// A command line that cannot be understood. The process exits 64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No such flag.
    #[error("unknown flag: --{name}{}", Hint(.nearest))]
    UnknownFlag {
        /// The flag as written.
        name: String,
        /// The known flag it is most like.
        nearest: Option<&'static str>,
    },
    /// A flag of an earlier release.
    #[error("unknown flag: --{name}: {why}")]
    RemovedFlag {
        /// The flag as written.
        name: String,
        /// What to do instead.
        why: &'static str,
    },
    /// No such flag of one letter.
    #[error("unknown shorthand flag: {letter:?} in -{written}")]
    UnknownShorthand {
        /// The letter.
        letter: char,
        /// All letters it stands among.
        written: String,
    },
    /// `--=x`, `---x`.
    #[error("bad flag syntax: {0}")]
    BadSyntax(String),
    /// A flag without the value it needs.
    #[error("flag needs an argument: {0}")]
    MissingValue(String),
    /// A value the flag cannot take.
    #[error("invalid argument {text:?} for {flag:?} flag: {why}")]
    BadValue {
        /// The value as written.
        text: String,
        /// The flag.
        flag: String,
        /// What is wrong with it.
        why: String,
    },
    /// A word that is neither a flag nor a subcommand.
    #[error("unknown command {word:?} for \"kubelet\"{}", boolean_hint(.word, *.after_bool))]
    UnknownCommand {
        /// The word.
        word: String,
        /// The boolean flag it follows, which takes its value with `=` only.
        after_bool: Option<&'static str>,
    },
}

struct Hint<'a>(&'a Option<&'static str>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "; did you mean --{name}?"),
            None => Ok(()),
        }
    }
}

fn boolean_hint(word: &str, after: Option<&'static str>) -> String {
    after.map_or_else(String::new, |flag| {
        format!("; write --{flag}={word} to set the flag before it")
    })
}

/// Flags of earlier releases, and what became of them.
const REMOVED: &[(&str, &str)] = &[(
    "pod-infra-container-image",
    "it was removed from the kubelet; set the sandbox image in the container runtime's own configuration",
)];

/// The flag called `name`; `_` is read as `-`.
fn lookup(name: &str) -> Result<&'static Flag, UsageError> {
    let name = name.replace('_', "-");
    if let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) {
        return Ok(flag);
    }
    if let Some((_, why)) = REMOVED.iter().find(|(removed, _)| *removed == name) {
        return Err(UsageError::RemovedFlag { name, why });
    }
    let nearest = nearest(&name, FLAGS.iter().map(|flag| flag.name));
    Err(UsageError::UnknownFlag { name, nearest })
}

/// Reads the arguments behind the program's name. A bare word in front that is one of `subcommands` hands the rest
/// over unread.
///
/// # Errors
/// At the first argument that cannot be understood.
pub fn parse(
    arguments: impl IntoIterator<Item = String>,
    subcommands: &[String],
) -> Result<Invocation, UsageError> {
    let mut rest = arguments.into_iter().peekable();
    if let Some(name) = rest.next_if(|word| subcommands.contains(word)) {
        return Ok(Invocation::Subcommand {
            name,
            arguments: rest.collect(),
        });
    }
    let mut line = CommandLine::default();
    let mut word = None;
    let mut last_bool = None;
    while let Some(argument) = rest.next() {
        if argument == "--" {
            word = word.or_else(|| rest.next().map(|next| (next, None)));
            break;
        }
        if let Some(long) = argument.strip_prefix("--") {
            if long.starts_with(['-', '=']) {
                return Err(UsageError::BadSyntax(argument));
            }
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            let flag = lookup(name)?;
            let written = written(flag);
            match (value, implied(flag.syntax)) {
                (Some(value), _) => line.set(flag, value, &written)?,
                (None, Some(value)) => {
                    line.set(flag, value, &written)?;
                    last_bool = (flag.syntax == Syntax::Bool).then_some(flag.name);
                    continue;
                }
                (None, None) => match rest.next() {
                    Some(value) => line.set(flag, &value, &written)?,
                    None => return Err(UsageError::MissingValue(format!("--{name}"))),
                },
            }
        } else if let Some(letters) = argument.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            shorthands(letters, &mut rest, &mut line)?;
        } else if word.is_none() {
            word = Some((argument, last_bool));
        }
        last_bool = None;
    }
    if line.is_set("help") {
        return Ok(Invocation::Help);
    }
    match line.value("version").and_then(Value::as_str) {
        Some("raw") => return Ok(Invocation::Version { raw: true }),
        Some("true") => return Ok(Invocation::Version { raw: false }),
        _ => {}
    }
    if let Some((word, after)) = word {
        let after_bool = after.filter(|_| syntax::boolean(&word).is_some());
        return Err(UsageError::UnknownCommand { word, after_bool });
    }
    Ok(Invocation::Run(line))
}

/// Reads `-v=2`, `-v2`, `-v 2`, `-h`, `-hv2`.
fn shorthands(
    letters: &str,
    rest: &mut impl Iterator<Item = String>,
    line: &mut CommandLine,
) -> Result<(), UsageError> {
    let mut remaining = letters.chars();
    while let Some(letter) = remaining.next() {
        let flag = FLAGS
            .iter()
            .find(|flag| flag.short == Some(letter))
            .ok_or_else(|| UsageError::UnknownShorthand {
                letter,
                written: letters.to_owned(),
            })?;
        let behind = remaining.as_str();
        let written = written(flag);
        if let Some(value) = behind.strip_prefix('=') {
            return line.set(flag, value, &written);
        }
        if let Some(value) = implied(flag.syntax) {
            line.set(flag, value, &written)?;
            continue;
        }
        if !behind.is_empty() {
            return line.set(flag, behind, &written);
        }
        return match rest.next() {
            Some(value) => line.set(flag, &value, &written),
            None => Err(UsageError::MissingValue(format!(
                "{letter:?} in -{letters}"
            ))),
        };
    }
    Ok(())
}

/// The value of a flag that is given without one.
fn implied(syntax: Syntax) -> Option<&'static str> {
    matches!(syntax, Syntax::Bool | Syntax::Version).then_some("true")
}

fn written(flag: &Flag) -> String {
    match flag.short {
        Some(letter) => format!("-{letter}, --{}", flag.name),
        None => format!("--{}", flag.name),
    }
}

/// The flag that sets the field at `path`.
pub(crate) fn of_field(path: &str) -> Option<&'static Flag> {
    FLAGS
        .iter()
        .find(|flag| matches!(flag.target, Target::Field(field) if field == path))
}

/// The default of a flag, as it would be written.
pub(crate) fn default_text(flag: &Flag) -> String {
    match flag.target {
        Target::Own => flag.default.to_owned(),
        // What differs without --config (behaviour of the flag itself).
        Target::Field("authentication.anonymous.enabled") => "true".to_owned(),
        Target::Field("authentication.webhook.enabled") => "false".to_owned(),
        Target::Field("authorization.mode") => "AlwaysAllow".to_owned(),
        Target::Field(path) => match fields::find(path).map(|field| field.preset) {
            Some(fields::Preset::Bool(value)) => value.to_string(),
            Some(fields::Preset::Int(value)) => value.to_string(),
            Some(fields::Preset::Float(value)) => value.to_string(),
            Some(fields::Preset::Text(value)) => value.to_owned(),
            Some(fields::Preset::List(values)) => values.join(","),
            Some(fields::Preset::None) | None => String::new(),
        },
    }
}
