//! What the suite says while it runs (`test2json` events, one a line), and what it all comes to.

use super::plan::Part;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

/// The one Go test that all of the suite's tests are below.
const ROOT: &str = "TestConformance";
/// Failed checks of one test that are shown; the log has all of them.
const SHOWN: usize = 3;
/// Characters of what such a check saw.
const WIDTH: usize = 300;
/// How a check of shares that is about to be repeated says so.
const REPEATED: &str = "Traffic distribution test failed";
/// That an answer came, or that time or tries are used up, says less than what was found wrong before.
const VAGUE: [&str; 3] = [
    "Got resp",
    "timeout while waiting",
    "Weighted distribution tests failed",
];

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
    /// Whether the suite has begun to print its report.
    reported: bool,
    /// By Go test, the last thing that it said.
    said: BTreeMap<String, String>,
    /// Go tests that failed.
    failed: Vec<String>,
    /// By Go test, when it began.
    started: BTreeMap<String, Duration>,
    /// By test of the suite, how often its shares were wrong.
    repeated: BTreeMap<String, u32>,
}

impl Outcome {
    pub(crate) fn new(part: Part) -> Self {
        Self {
            part,
            tests: Vec::new(),
            own: Vec::new(),
            reported: false,
            said: BTreeMap::new(),
            failed: Vec::new(),
            started: BTreeMap::new(),
            repeated: BTreeMap::new(),
        }
    }

    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.tests.iter().filter(|test| test.verdict == verdict).count()
    }

    /// Takes one line of events, of which `now` tells the time since the run began. A line that is no event was printed by
    /// the programs around the suite.
    pub(crate) fn take(&mut self, line: &str, now: Duration) -> Option<News> {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            self.own.push(line.trim_end().to_owned());
            return None;
        };
        let test = event["Test"].as_str().unwrap_or(ROOT);
        match event["Action"].as_str()? {
            // The suite's own clock stands still while a test's parallel checks run.
            "run" => {
                self.started.insert(test.to_owned(), now);
                None
            }
            "output" => self.output(test, event["Output"].as_str()?),
            "pass" => self.done(test, Verdict::Passed, now),
            "fail" => self.done(test, Verdict::Failed, now),
            "skip" => self.done(test, Verdict::Skipped, now),
            _ => None,
        }
    }

    fn output(&mut self, test: &str, line: &str) -> Option<News> {
        // The report comes last of all, and tells nothing of why there is nothing in it.
        self.reported |= test == ROOT && line.trim_end().ends_with("Conformance report:");
        if test == ROOT && !self.reported && !line.trim().is_empty() && !is_frame(line) {
            self.own.push(line.trim_end().to_owned());
        }
        let said = self.said.entry(test.to_owned()).or_default();
        let Some(text) = message(line) else {
            // What a message announces may follow on a line of its own.
            if said.ends_with(':') && !line.trim().is_empty() {
                said.push(' ');
                said.push_str(line.trim());
            }
            return None;
        };
        if text.starts_with(REPEATED) {
            *self.repeated.entry(top(test)?.to_owned()).or_default() += 1;
        }
        if said.is_empty() || !VAGUE.iter().any(|end| text.starts_with(end)) {
            *said = text.to_owned();
        }
        let setup = text.strip_prefix("Test Setup: ").filter(|_| test == ROOT)?;
        Some(News::Setup(setup.to_owned()))
    }

    fn done(&mut self, test: &str, verdict: Verdict, now: Duration) -> Option<News> {
        let name = test.strip_prefix(ROOT)?.strip_prefix('/')?;
        if verdict == Verdict::Failed {
            self.failed.push(test.to_owned());
        }
        // Checks are below the tests; the suite names every test there is, also those of the other part.
        if name.contains('/') || Part::of_test(name) != self.part {
            return None;
        }
        let why = match verdict {
            Verdict::Passed => self.repetition(name).into_iter().collect(),
            Verdict::Skipped => self.said.get(test).cloned().into_iter().collect(),
            Verdict::Failed => self.failures(test),
        };
        let began = self.started.get(test).copied().unwrap_or(now);
        let test = Test {
            name: name.to_owned(),
            verdict,
            seconds: (now - began).as_secs_f64(),
            why,
        };
        self.tests.push(test.clone());
        // What profiles and features leave out is in the table, not news.
        (verdict != Verdict::Skipped).then_some(News::Done(test))
    }

    /// Checks of shares are tried up to ten times, so that a wrong share may pass by chance.
    fn repetition(&self, name: &str) -> Option<String> {
        let times = self.repeated.get(name)?;
        Some(format!(
            "{times} times the shares were wrong before they were right"
        ))
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
        let line = leaf
            .strip_prefix(below)
            .map_or_else(|| said.to_owned(), |check| format!("{check}: {said}"));
        line.chars().take(WIDTH).collect()
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

/// The suite's test that a Go test is or is below.
fn top(test: &str) -> Option<&str> {
    test.strip_prefix(ROOT)?.strip_prefix('/')?.split('/').next()
}

/// A line that `testing` writes around the output.
fn is_frame(line: &str) -> bool {
    ["=== ", "--- "]
        .iter()
        .any(|frame| line.trim_start().starts_with(frame))
}

/// What a line says, if it begins a message: without place, time and what else stands before it. Lines that go on, like the
/// whole of a response, say nothing here.
fn message(line: &str) -> Option<&str> {
    let line = line.trim();
    if let Some(text) = line
        .strip_prefix("Error:")
        .or_else(|| line.strip_prefix("Messages:"))
    {
        return Some(text.trim());
    }
    let (place, text) = line.split_once(": ")?;
    if is_frame(line) || !is_place(place) {
        return None;
    }
    let text = match text.split_once(": ") {
        Some((time, rest)) if is_time(time) => rest,
        _ => text,
    };
    let text = text.split_once("not ready yet: ").map_or(text, |(_, seen)| seen);
    Some(text.trim()).filter(|text| !text.is_empty())
}

/// `apply.go:301`
fn is_place(text: &str) -> bool {
    text.split_once(".go:")
        .is_some_and(|(file, line)| !file.contains(' ') && line.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `2026-08-31T12:00:00.123456789Z`
fn is_time(text: &str) -> bool {
    let byte = |at: usize| text.as_bytes().get(at).copied();
    byte(4) == Some(b'-') && byte(10) == Some(b'T') && byte(13) == Some(b':')
}

#[cfg(test)]
mod tests;
