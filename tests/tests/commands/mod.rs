//! Subcommands of the agent that runs on a private node.

mod hangs;
mod reading;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::agent::Agent;
use tests::containerd::Node;
use tests::wait::eventually;

fn command(node: &Node, agent: &Agent<'_>, words: &[&str]) -> Command {
    let mut command = Command::new(agent.binary());
    let root = format!("--root-dir={}", node.path("kubelet").display());
    command.args(words).arg(root);
    command
}

/// The exit status and the output of a subcommand, what it remarks behind what it prints.
pub(crate) fn ask(node: &Node, agent: &Agent<'_>, words: &[&str]) -> Result<(Option<i32>, String)> {
    let asked = command(node, agent, words)
        .output()
        .context("run the subcommand")?;
    let mut text = String::from_utf8(asked.stdout)?;
    text.push_str(&String::from_utf8(asked.stderr)?);
    println!("$ kubelet {}\n{}", words.join(" "), head(&text));
    Ok((asked.status.code(), text))
}

/// As much of a text as a failed test should show.
fn head(text: &str) -> &str {
    text.char_indices()
        .nth(4000)
        .map_or(text, |(at, _)| &text[..at])
}

/// A subcommand that goes on. It ends with this value at the latest.
struct Running {
    words: String,
    child: Child,
    output: PathBuf,
}

impl Running {
    /// Starts it; `name` is that of the files of its output.
    fn start(node: &Node, agent: &Agent<'_>, name: &str, words: &[&str]) -> Result<Self> {
        let output = node.path(name);
        let remarks = output.with_extension("remarks");
        let child = command(node, agent, words)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(remarks)?)
            .spawn()
            .context("run the subcommand")?;
        let words = words.join(" ");
        Ok(Self {
            words,
            child,
            output,
        })
    }

    /// What it has printed so far.
    fn printed(&self) -> Result<String> {
        fs::read_to_string(&self.output).context("read what it has printed")
    }

    fn remarked(&self) -> Result<String> {
        fs::read_to_string(self.output.with_extension("remarks")).context("read its remarks")
    }

    /// Waits until it has printed `what`.
    async fn prints(&self, what: &str, limit: Duration) -> Result<String> {
        eventually(&format!("it prints {what:?}"), limit, async || {
            let printed = self.printed()?;
            ensure!(
                printed.contains(what),
                "{}\n{}",
                head(&printed),
                self.remarked()?
            );
            Ok(printed)
        })
        .await
    }

    /// Waits until it has ended; its exit status.
    async fn ends(&mut self, limit: Duration) -> Result<Option<i32>> {
        eventually("it ends", limit, async || {
            let status = self.child.try_wait()?;
            Ok(status.context("it runs")?.code())
        })
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let (printed, remarked) = (self.printed(), self.remarked());
        let printed = printed.unwrap_or_default() + &remarked.unwrap_or_default();
        println!("$ kubelet {}\n{}", self.words, head(&printed));
    }
}
