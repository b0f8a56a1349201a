//! A KubeletConfiguration file, and one of the agent's own settings.

use std::io::Read;
use std::path::Path;

use static_pods::tree::{self, Node, Position};

use super::input;
use super::report::{FileReport, Finding};
use crate::config::{
    AgentSettings, Config, ConfigError, Environment, FileCheck, Issue, Issues, Origin, check_file,
};
use crate::errors::error_chain;

/// What is to be said of the file `path`, and what it makes of the agent.
pub(super) fn judge(
    path: &Path,
    environment: &Environment,
    input: &mut dyn Read,
) -> (FileReport, Option<Config>) {
    let (mut report, bytes) = read(path, "KubeletConfiguration", input);
    let Some(bytes) = bytes else {
        return (report, None);
    };
    // Relative paths in it begin at its directory.
    let absolute = environment.working_directory.join(path);
    let FileCheck {
        problems,
        warnings,
        config,
    } = check_file(&absolute, &bytes, environment);
    report.problems = findings(problems, &bytes);
    report.warnings = findings(warnings, &bytes);
    (report, config)
}

/// The same of a file of the agent's own settings.
pub(super) fn judge_own(
    path: &Path,
    environment: &Environment,
    input: &mut dyn Read,
) -> (FileReport, Option<AgentSettings>) {
    let (mut report, bytes) = read(path, "AgentConfiguration", input);
    let Some(bytes) = bytes else {
        return (report, None);
    };
    match AgentSettings::parse(&environment.working_directory.join(path), &bytes) {
        Ok(settings) => return (report, Some(settings)),
        Err(ConfigError::Invalid(Issues(issues))) => report.problems = findings(issues, &bytes),
        Err(error) => {
            let problem = Finding::new(Position::START, error_chain(&error));
            report.problems.push(problem);
        }
    }
    (report, None)
}

/// The beginning of a report, which says `fine` where nothing is wrong, and what the file holds.
fn read(path: &Path, fine: &'static str, input: &mut dyn Read) -> (FileReport, Option<Vec<u8>>) {
    let mut report = FileReport {
        file: path.display().to_string(),
        fine: Some(fine),
        ..FileReport::default()
    };
    match input::read(path, input) {
        Ok((bytes, _)) => (report, Some(bytes)),
        Err(error) => {
            let message = format!("cannot read the configuration file: {error}");
            report.problems.push(Finding::new(Position::START, message));
            (report, None)
        }
    }
}

fn findings(issues: Vec<Issue>, bytes: &[u8]) -> Vec<Finding> {
    let document = tree::parse(bytes).into_iter().find_map(Result::ok);
    let root = document.as_ref().map(|document| &document.root);
    issues
        .into_iter()
        .map(|issue| finding(issue, root))
        .collect()
}

/// The messages of the configuration name their fields themselves.
fn finding(issue: Issue, root: Option<&Node>) -> Finding {
    let at = match issue.origin {
        Origin::File { at, .. } => at,
        Origin::BuiltIn | Origin::Flag(_) => return Finding::new(Position::START, issue.message),
    };
    let field = root.and_then(|root| root.path_at(at)).unwrap_or_default();
    Finding {
        names_field: true,
        ..Finding::new(at, issue.message).of_field(field)
    }
}
