//! What was found, file by file, and how it is shown. The JSON is an interface: fields are added, never changed.

use std::io::{self, Write};

use serde::Serialize;
use static_pods::tree::Position;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    files: Vec<FileReport>,
    pub(super) valid: bool,
}

/// One file.
#[derive(Debug, Default, Serialize)]
pub(super) struct FileReport {
    /// As it was named.
    pub(super) file: String,
    /// The pods that would run.
    pub(super) pods: Vec<PodReport>,
    /// The ConfigMaps and Secrets that pods would find.
    pub(super) objects: Vec<ObjectReport>,
    pub(super) problems: Vec<Finding>,
    pub(super) warnings: Vec<Finding>,
    /// What is said of it when it has no pods and no problems.
    #[serde(skip)]
    pub(super) fine: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct PodReport {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ObjectReport {
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// One thing said of a place in a file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Finding {
    pub(super) line: u32,
    pub(super) column: u32,
    /// Empty when it is about no field.
    pub(super) field: String,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
    /// Whether the message names the field itself.
    #[serde(skip)]
    pub(super) names_field: bool,
}

impl Finding {
    pub(super) fn new(at: Position, message: impl Into<String>) -> Self {
        Self {
            line: at.line,
            column: at.column,
            field: String::new(),
            message: message.into(),
            remedy: None,
            names_field: false,
        }
    }

    pub(super) fn of_field(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    fn write(&self, file: &str, mark: &str, to: &mut dyn Write) -> io::Result<()> {
        write!(to, "{file}:{}:{}: {mark}", self.line, self.column)?;
        if !self.field.is_empty() && !self.names_field {
            write!(to, "{}: ", self.field)?;
        }
        match &self.remedy {
            Some(remedy) => writeln!(to, "{}; {remedy}", self.message),
            None => writeln!(to, "{}", self.message),
        }
    }
}

impl Report {
    pub(super) fn new(mut files: Vec<FileReport>) -> Self {
        for file in &mut files {
            let place = |finding: &Finding| (finding.line, finding.column);
            file.problems.sort_by_key(place);
            file.warnings.sort_by_key(place);
        }
        let valid = files.iter().all(|file| file.problems.is_empty());
        Self { files, valid }
    }

    /// One line for each thing found, and one for each pod that would run.
    pub(super) fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        for file in &self.files {
            for problem in &file.problems {
                problem.write(&file.file, "", to)?;
            }
            for warning in &file.warnings {
                warning.write(&file.file, "warning: ", to)?;
            }
            for pod in &file.pods {
                let PodReport {
                    namespace, name, ..
                } = pod;
                writeln!(to, "{}: ok (pod {namespace}/{name})", file.file)?;
            }
            for ObjectReport {
                kind,
                namespace,
                name,
            } in &file.objects
            {
                writeln!(to, "{}: ok ({kind} {namespace}/{name})", file.file)?;
            }
            if let (Some(fine), true) = (file.fine, file.problems.is_empty()) {
                writeln!(to, "{}: ok ({fine})", file.file)?;
            }
        }
        Ok(())
    }

    pub(super) fn write_json(&self, to: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *to, self)?;
        writeln!(to)
    }
}
