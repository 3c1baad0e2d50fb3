//! What the suite says while it runs (`test2json` events, one a line), and what it all comes to.

use super::plan::Part;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

/// The one Go test that all of the suite's tests are below.
const ROOT: &str = "TestConformance";
/// Failed checks of one test that are shown; the log has all of them.
const SHOWN: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// One of the suite's tests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
    /// Of a failed one: which of its checks failed, and what they said last. Of a skipped one: why.
    pub(crate) why: Vec<String>,
}

impl Display for Test {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sign = match self.verdict {
            Verdict::Passed => "✔",
            Verdict::Failed => "✘",
            Verdict::Skipped => "-",
        };
        write!(f, "{sign} {:<58} {:6.1} s", self.name, self.seconds)?;
        self.why.iter().try_for_each(|line| write!(f, "\n      {line}"))
    }
}

/// What is worth a line on the screen as it comes.
#[derive(Debug, PartialEq)]
pub(crate) enum News {
    Setup(String),
    Done(Test),
}

/// The results of one run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) part: Part,
    pub(crate) tests: Vec<Test>,
    /// What the suite said outside of its tests: the reason when it gave up.
    pub(crate) own: Vec<String>,
    /// By Go test, the last thing that it said.
    said: BTreeMap<String, String>,
    /// By Go test, whether it failed.
    failed: Vec<String>,
}

impl Outcome {
    pub(crate) fn new(part: Part) -> Self {
        Self {
            part,
            tests: Vec::new(),
            own: Vec::new(),
            said: BTreeMap::new(),
            failed: Vec::new(),
        }
    }

    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.tests.iter().filter(|test| test.verdict == verdict).count()
    }

    /// Takes one line of events. A line that is no event was printed by the programs around the suite.
    pub(crate) fn take(&mut self, line: &str) -> Option<News> {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            self.own.push(line.trim_end().to_owned());
            return None;
        };
        let test = event["Test"].as_str().unwrap_or(ROOT);
        let seconds = event["Elapsed"].as_f64().unwrap_or(0.0);
        match event["Action"].as_str()? {
            "output" => self.output(test, event["Output"].as_str()?),
            "pass" => self.done(test, Verdict::Passed, seconds),
            "fail" => self.done(test, Verdict::Failed, seconds),
            "skip" => self.done(test, Verdict::Skipped, seconds),
            _ => None,
        }
    }

    fn output(&mut self, test: &str, text: &str) -> Option<News> {
        let text = message(text)?;
        if test == ROOT {
            self.own.push(text.to_owned());
            let setup = text.strip_prefix("Test Setup: ")?;
            return Some(News::Setup(setup.to_owned()));
        }
        // A failed assertion prints a block of labelled lines; its first says what was wrong.
        let label = ["Error Trace:", "Test:", "Messages:"]
            .iter()
            .any(|label| text.starts_with(label));
        if !label {
            self.said.insert(test.to_owned(), text.to_owned());
        }
        None
    }

    fn done(&mut self, test: &str, verdict: Verdict, seconds: f64) -> Option<News> {
        let name = test.strip_prefix(ROOT)?.strip_prefix('/')?;
        if verdict == Verdict::Failed {
            self.failed.push(test.to_owned());
        }
        // Checks are below the tests; the suite names every test there is, also those of the other part.
        if name.contains('/') || Part::of_test(name) != self.part {
            return None;
        }
        let why = match verdict {
            Verdict::Passed => Vec::new(),
            Verdict::Skipped => self.said.get(test).cloned().into_iter().collect(),
            Verdict::Failed => self.failures(test),
        };
        let test = Test {
            name: name.to_owned(),
            verdict,
            seconds,
            why,
        };
        self.tests.push(test.clone());
        // What profiles and features leave out is in the table, not news.
        (verdict != Verdict::Skipped).then_some(News::Done(test))
    }

    /// The innermost failed checks of a test.
    fn failures(&self, test: &str) -> Vec<String> {
        let below = format!("{test}/");
        let inner = |name: &&String| {
            let above = format!("{name}/");
            let own = name.starts_with(&below) || name.as_str() == test;
            own && !self.failed.iter().any(|other| other.starts_with(&above))
        };
        let leaves: Vec<&String> = self.failed.iter().filter(inner).collect();
        let mut lines: Vec<String> = leaves
            .iter()
            .take(SHOWN)
            .map(|leaf| self.line(&below, leaf))
            .collect();
        if leaves.len() > SHOWN {
            lines.push(format!("and {} more failed checks", leaves.len() - SHOWN));
        }
        lines
    }

    fn line(&self, below: &str, leaf: &str) -> String {
        let said = self.said.get(leaf).map_or("it says nothing", String::as_str);
        leaf.strip_prefix(below)
            .map_or_else(|| said.to_owned(), |check| format!("{check}: {said}"))
    }
}

/// The summary that is kept beside a report: one line a test.
impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut tests: Vec<&Test> = self.tests.iter().collect();
        tests.sort_by_key(|test| (test.verdict == Verdict::Skipped, test.name.as_str()));
        for test in &tests {
            writeln!(f, "{test}")?;
        }
        write!(
            f,
            "{}: {} passed, {} failed, {} skipped",
            self.part.name(),
            self.count(Verdict::Passed),
            self.count(Verdict::Failed),
            self.count(Verdict::Skipped)
        )
    }
}

/// An event as the log keeps it: what was printed.
pub(crate) fn text(line: &str) -> String {
    match serde_json::from_str::<Value>(line) {
        Ok(event) => event["Output"].as_str().unwrap_or_default().to_owned(),
        Err(_) => format!("{line}\n"),
    }
}

/// What a line of output says, without the place and time that `testing` and the suite put before it.
fn message(line: &str) -> Option<&str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with("=== ") || line.starts_with("--- ") {
        return None;
    }
    let line = match line.split_once(": ") {
        Some((place, rest)) if is_place(place) => rest.trim_start(),
        _ => line,
    };
    let line = match line.split_once(": ") {
        Some((time, rest)) if is_time(time) => rest.trim_start(),
        _ => line,
    };
    (!line.is_empty()).then_some(line)
}

/// `apply.go:301`
fn is_place(text: &str) -> bool {
    text.split_once(".go:")
        .is_some_and(|(file, line)| !file.contains(' ') && line.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `2026-08-31T12:00:00.123456789Z`
fn is_time(text: &str) -> bool {
    text.len() > 19 && text.as_bytes()[4] == b'-' && text.as_bytes()[10] == b'T'
}
