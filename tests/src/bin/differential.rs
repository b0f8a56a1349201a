//! Compares our reader of manifests with another one, over mutated manifests, and says how they differ, by kind.
//!
//! `--against COMMAND` is the other reader: a program that reads a file's name a line on standard input and answers with
//! a JSON object a line, in order: `{"file", "ok", "error", "fields": [{"type", "field", "detail", "text"}], "pod"}`. Its
//! node must be called `node`. `--count N` manifests (3000), from `--seed S` (1), are made of the goldens and examples.
//! `--keep DIR` leaves them there. `--classes` prints one line a kind.
//!
//! `tests/differential-known.txt` lists the kinds of difference that are meant, one a line. The exit status is 1 when
//! there is another.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use static_pods::identity::NodeName;
use static_pods::tree;
use tests::differential::Summary;
use tests::differential::compare::{Answer, differences, ours};
use tests::differential::mutate::mutate;
use tests::random::Random;

const NODE: &str = "node";
/// Characters of an example that are shown.
const SHOWN: usize = 600;

struct Options {
    against: String,
    count: usize,
    seed: u64,
    keep: Option<PathBuf>,
    only_classes: bool,
}

fn options() -> Result<Options> {
    let mut options = Options {
        against: String::new(),
        count: 3000,
        seed: 1,
        keep: None,
        only_classes: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        if flag == "--classes" {
            options.only_classes = true;
            continue;
        }
        let value = arguments
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--against" => options.against = value,
            "--count" => options.count = value.parse().context("--count")?,
            "--seed" => options.seed = value.parse().context("--seed")?,
            "--keep" => options.keep = Some(value.into()),
            _ => bail!("unknown flag {flag}"),
        }
    }
    ensure!(
        !options.against.is_empty(),
        "say which command to compare with: make differential AGAINST=\"command\""
    );
    Ok(options)
}

fn house() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The manifests beneath `directory` that hold one document, with their values.
fn seeds(directory: &Path, found: &mut Vec<(String, serde_json::Value)>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            seeds(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "yaml")
            && let Ok(text) = fs::read_to_string(&path)
            && let [Ok(document)] = tree::parse(text.as_bytes()).as_slice()
            && !text.contains("\n---")
        {
            found.push((text, document.root.to_json()));
        }
    }
    Ok(())
}

fn main() -> Result<ExitCode> {
    let options = options()?;
    let mut found = Vec::new();
    for directory in [
        // Three times: what is taken before it is changed is more often taken after.
        "../static-pods/tests/accepts",
        "../static-pods/tests/accepts",
        "../static-pods/tests/accepts",
        "../static-pods/tests/rejects",
        "../examples",
    ] {
        seeds(&house().join(directory), &mut found)?;
    }
    ensure!(!found.is_empty(), "no seeds");
    let room = tempfile::tempdir()?;
    let directory = options.keep.as_deref().unwrap_or(room.path());
    fs::create_dir_all(directory)?;
    let summary = compare(&options, &found, directory)?;
    let known = fs::read_to_string(house().join("differential-known.txt")).unwrap_or_default();
    report(&summary, &known, &options)
}

fn compare(
    options: &Options,
    seeds: &[(String, serde_json::Value)],
    directory: &Path,
) -> Result<Summary> {
    let mut other = Command::new("sh")
        .args(["-c", &options.against])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the other reader")?;
    let mut names = other.stdin.take().context("its input")?;
    let mut answers = BufReader::new(other.stdout.take().context("its output")?).lines();
    let mut random = Random::new(options.seed);
    let mut summary = Summary::default();
    let mut taken = 0;
    for number in 0..options.count {
        let (text, tree) = &seeds[number % seeds.len()];
        let made = mutate(text, tree, &mut random);
        let path = directory.join(format!("{number:05}.yaml"));
        fs::write(&path, &made)?;
        writeln!(names, "{}", path.display())?;
        names.flush()?;
        let line = answers.next().context("the other reader ended")??;
        let theirs: Answer = serde_json::from_str(&line)
            .with_context(|| format!("the other reader says of {}: {line}", path.display()))?;
        let we = ours(&path, made.as_bytes(), &NodeName::new(NODE));
        taken += usize::from(theirs.ok);
        for (class, detail) in differences(&we, &theirs) {
            summary.add(class, &made, detail);
        }
    }
    drop(names);
    other.wait()?;
    println!(
        "{} manifests, {taken} of them taken by the other reader",
        options.count
    );
    Ok(summary)
}

fn report(summary: &Summary, known: &str, options: &Options) -> Result<ExitCode> {
    let lines = known
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let meant: Vec<&str> = lines.collect();
    let (mut new, mut old) = (0, 0);
    for (class, count, example) in summary.classes() {
        if meant.iter().any(|prefix| class.starts_with(prefix)) {
            old += 1;
            continue;
        }
        new += 1;
        println!("{count:5} × {class}");
        if !options.only_classes {
            let text: String = example.text.chars().take(SHOWN).collect();
            println!("        {}\n{}\n", example.detail, text.trim_end());
        }
    }
    println!("{new} kinds of difference, and {old} that are meant");
    Ok(match new {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
