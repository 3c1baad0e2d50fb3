//! Steps, what they measured and whether they held.

use anyhow::Result;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// All steps so far.
pub(crate) struct Report {
    started: Instant,
    steps: Vec<Step>,
}

/// One step.
pub(crate) struct Step {
    letter: &'static str,
    title: &'static str,
    figures: Map<String, Value>,
    broken: Vec<String>,
}

impl Step {
    /// Keeps a figure and shows it.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        println!("      {name} = {value}");
        self.figures.insert(name.to_owned(), value);
    }

    /// A promise that holds or does not.
    pub(crate) fn holds(&mut self, what: &str, holds: bool) {
        println!("    {} {what}", if holds { "✔" } else { "✘" });
        if !holds {
            self.broken.push(what.to_owned());
        }
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// Runs a step. An error is a promise that did not hold; later steps still run.
    pub(crate) fn step(
        &mut self,
        letter: &'static str,
        title: &'static str,
        run: impl FnOnce(&mut Step) -> Result<()>,
    ) -> bool {
        println!("\n  {letter}. {title}");
        let mut step = Step {
            letter,
            title,
            figures: Map::new(),
            broken: Vec::new(),
        };
        let start = Instant::now();
        if let Err(error) = run(&mut step) {
            step.holds(&format!("{error:#}"), false);
        }
        step.figures
            .insert("seconds".into(), json!(start.elapsed().as_secs_f64()));
        let held = step.broken.is_empty();
        self.steps.push(step);
        held
    }

    /// Whether every step held.
    pub(crate) fn held(&self) -> bool {
        self.steps.iter().all(|step| step.broken.is_empty())
    }

    /// Prints the summary.
    pub(crate) fn summary(&self) {
        println!();
        for step in &self.steps {
            println!(
                "  {} {}. {}",
                if step.broken.is_empty() { "✔" } else { "✘" },
                step.letter,
                step.title
            );
            for broken in &step.broken {
                println!("      ✘ {broken}");
            }
        }
        println!("  {:.0} s", self.started.elapsed().as_secs_f64());
    }

    /// The whole as JSON.
    pub(crate) fn json(&self) -> Value {
        let step = |step: &Step| {
            json!({"step": step.letter, "title": step.title, "held": step.broken.is_empty(),
                   "broken": step.broken, "figures": step.figures})
        };
        json!({"held": self.held(), "seconds": self.started.elapsed().as_secs_f64(),
               "steps": self.steps.iter().map(step).collect::<Vec<_>>()})
    }
}
