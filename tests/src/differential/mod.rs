//! Our reader of manifests against another one.
//!
//! Owns: mutated manifests, the comparison of two answers, the summary by kind of difference. Inputs: seed manifests,
//! another reader's answers. Outputs: files, a [`Summary`]. Spawns nothing; the program `differential` runs the other
//! reader.

pub mod compare;
pub mod mutate;
mod table;

use std::collections::BTreeMap;

/// A difference between the two readers, made general: list indices and quoted values are left out.
pub type Class = String;

/// One manifest that shows a difference.
#[derive(Clone, Debug)]
pub struct Example {
    /// The manifest.
    pub text: String,
    /// What differs, in full.
    pub detail: String,
}

/// Differences by class, with how often each was seen and its shortest example.
#[derive(Debug, Default)]
pub struct Summary {
    classes: BTreeMap<Class, (usize, Example)>,
}

impl Summary {
    /// Adds a difference that `text` shows.
    pub fn add(&mut self, class: Class, text: &str, detail: String) {
        let example = || Example {
            text: text.to_owned(),
            detail: detail.clone(),
        };
        let (count, shortest) = self.classes.entry(class).or_insert_with(|| (0, example()));
        *count += 1;
        if text.len() < shortest.text.len() {
            *shortest = example();
        }
    }

    /// All classes with their counts and examples, the most frequent first.
    #[must_use]
    pub fn classes(&self) -> Vec<(&Class, usize, &Example)> {
        let all = self.classes.iter().map(|(class, (n, e))| (class, *n, e));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
        all
    }
}
