//! The help text, made from the table of flags.

use super::{Deprecation, FLAGS, Group, default_text};

const TEXT: &str = "\
The kubelet is the node agent of Kubernetes. It makes the pods of this node be what their manifests say: static pods
from a directory of manifests and, once joined to a cluster, the pods the API server assigns to it.

Usage:
  kubelet [flags]
  kubelet COMMAND [flags]
";

const GROUPS: &[(Group, &str)] = &[
    (Group::General, "General"),
    (Group::Node, "Node"),
    (Group::Pods, "Pods and the container runtime"),
    (Group::Images, "Images"),
    (Group::Server, "Server"),
    (Group::Security, "Authentication, authorization, TLS"),
    (Group::Api, "API server and events"),
    (Group::Resources, "Cgroups and resources"),
    (Group::Managers, "CPU, memory and topology managers"),
    (Group::Eviction, "Eviction"),
    (Group::Network, "Network"),
    (Group::Logging, "Logging"),
    (Group::Leftover, "Accepted for the sake of old scripts"),
];

/// The help text of `kubelet --help`. `commands` are the names of subcommands, and what each does.
pub(crate) fn usage(commands: &[(String, String)]) -> String {
    let mut text = String::from(TEXT);
    let width = commands.iter().map(|(name, _)| name.len()).max();
    text.push_str("\nCommands, each with a --help of its own:\n");
    for (name, what) in commands {
        let width = width.unwrap_or_default();
        text.push_str(&format!("  {name:width$}   {what}\n"));
    }
    for (group, title) in GROUPS {
        text.push_str(&format!("\n{title}:\n"));
        for flag in FLAGS.iter().filter(|flag| flag.group == *group) {
            let short = flag
                .short
                .map_or_else(|| "    ".to_owned(), |s| format!("-{s}, "));
            let placeholder = flag.syntax.placeholder();
            let gap = if placeholder.is_empty() || placeholder.starts_with('[') {
                ""
            } else {
                " "
            };
            text.push_str(&format!(
                "  {short}--{}{gap}{placeholder}\n        {}",
                flag.name, flag.help
            ));
            let default = default_text(flag);
            if !matches!(default.as_str(), "" | "false" | "0" | "0s") {
                text.push_str(&format!(" (default {default})"));
            }
            match flag.deprecation {
                Deprecation::None => {}
                Deprecation::UseFile => {
                    text.push_str(" (deprecated: set it in the file of --config)")
                }
                Deprecation::Because(why) => text.push_str(&format!(" (deprecated: {why})")),
            }
            text.push('\n');
        }
    }
    text
}
