//! The arguments of `kubelet validate`.

use std::path::PathBuf;

use super::ValidateError;

pub(super) const HELP: &str = "\
Judges manifests of static pods, and KubeletConfiguration files, as this kubelet would, without running anything.

Usage:
  kubelet validate [flags] FILE...
  kubelet validate [flags] --config FILE [FILE...]

A FILE is a manifest, a directory of manifests (its sub-directories and dot-files are passed over), or - for standard
input. Each is read as it would be from the manifest directory: decoded, defaulted, checked against the rules of the
API, against what this version can run, and against the other files given: of two files with one pod the last path in
byte order counts.

Flags:
      --config FILE
        Judge this KubeletConfiguration; manifests given too are judged for a node that has it
  -h, --help
        Print this text
      --node-name NAME
        The node whose pods they are (default: the host's name)
  -o, --output FORMAT
        text, or json for one JSON document (default text)

Exit status: 0 when nothing is wrong, 1 when something is, 64 when the command line is.
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Text,
    Json,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) config: Option<PathBuf>,
    pub(super) files: Vec<PathBuf>,
    pub(super) node_name: Option<String>,
    pub(super) output: Output,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Help,
    Judge(Arguments),
}

pub(super) fn parse(arguments: &[String]) -> Result<Request, ValidateError> {
    let usage = |message: String| ValidateError::Usage(message);
    let mut found = Arguments {
        config: None,
        files: Vec::new(),
        node_name: None,
        output: Output::Text,
    };
    let mut rest = arguments.iter();
    let mut only_files = false;
    while let Some(argument) = rest.next() {
        if only_files || argument == "-" || !argument.starts_with('-') {
            found.files.push(argument.into());
            continue;
        }
        if argument == "--" {
            only_files = true;
            continue;
        }
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        if matches!(name, "-h" | "--help") && value.is_none() {
            return Ok(Request::Help);
        }
        if !matches!(name, "--config" | "--node-name" | "-o" | "--output") {
            return Err(usage(format!("unknown flag: {argument}")));
        }
        let value = match value.or_else(|| rest.next().cloned()) {
            Some(value) if !value.is_empty() => value,
            _ => return Err(usage(format!("flag needs an argument: {name}"))),
        };
        match name {
            "--config" if found.config.is_some() => {
                return Err(usage("--config is given twice".to_owned()));
            }
            "--config" => found.config = Some(value.into()),
            "--node-name" => found.node_name = Some(value),
            _ => {
                found.output = match value.as_str() {
                    "text" => Output::Text,
                    "json" => Output::Json,
                    _ => {
                        let message = format!("{name} takes text or json, not {value:?}");
                        return Err(usage(message));
                    }
                }
            }
        }
    }
    if found.files.is_empty() && found.config.is_none() {
        return Err(usage(
            "no FILE: name manifests, a directory of them, or - for standard input".to_owned(),
        ));
    }
    Ok(Request::Judge(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_and_files_mix() {
        let Ok(Request::Judge(found)) = parsed("a -o json - --node-name=n --config c -- -x") else {
            panic!("not understood");
        };
        assert_eq!(found.files, ["a", "-", "-x"].map(PathBuf::from));
        assert_eq!(found.config, Some(PathBuf::from("c")));
        assert_eq!(found.node_name.as_deref(), Some("n"));
        assert_eq!(found.output, Output::Json);
        assert_eq!(parsed("a --help --nonsense"), Ok(Request::Help));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (line, said) in [
            ("", "no FILE"),
            ("-o json", "no FILE"),
            ("a --conifg b", "unknown flag: --conifg"),
            ("a -x", "unknown flag: -x"),
            ("a -o", "flag needs an argument: -o"),
            ("a --node-name=", "flag needs an argument: --node-name"),
            ("a -o yaml", "takes text or json, not \"yaml\""),
            ("--config a --config b", "given twice"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
