//! A KubeletConfiguration file.

use std::io::Read;
use std::path::Path;

use static_pods::tree::{self, Node, Position};

use super::input;
use super::report::{FileReport, Finding};
use crate::config::{Config, Environment, FileCheck, Issue, Origin, check_file};

/// What is to be said of the file `path`, and what it makes of the agent.
pub(super) fn judge(
    path: &Path,
    environment: &Environment,
    input: &mut dyn Read,
) -> (FileReport, Option<Config>) {
    let mut report = FileReport {
        file: path.display().to_string(),
        fine: Some("KubeletConfiguration"),
        ..FileReport::default()
    };
    let bytes = match input::read(path, input) {
        Ok((bytes, _)) => bytes,
        Err(error) => {
            let message = format!("cannot read the configuration file: {error}");
            report.problems.push(Finding::new(Position::START, message));
            return (report, None);
        }
    };
    // Relative paths in it begin at its directory.
    let absolute = environment.working_directory.join(path);
    let FileCheck {
        problems,
        warnings,
        config,
    } = check_file(&absolute, &bytes, environment);
    let document = tree::parse(&bytes).into_iter().find_map(Result::ok);
    let root = document.as_ref().map(|document| &document.root);
    let findings = |issues: Vec<Issue>| issues.into_iter().map(|i| finding(i, root)).collect();
    report.problems = findings(problems);
    report.warnings = findings(warnings);
    (report, config)
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
