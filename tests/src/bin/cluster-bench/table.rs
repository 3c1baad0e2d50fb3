//! Rows: what was measured, and beside it the goal; or why it could not be.

use anyhow::Result;
use serde_json::{Value, json};
use std::fmt::Write as _;

enum Row {
    Heading(String),
    Figure {
        what: String,
        value: Result<f64, String>,
        unit: &'static str,
        goal: Option<f64>,
        /// What `--strict` takes: the goal, or more where the machine's noise is in it.
        at_most: Option<f64>,
    },
    /// Arithmetic on figures above it.
    Words(String),
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn heading(&mut self, text: &str) {
        eprintln!("  {text}");
        self.rows.push(Row::Heading(text.to_owned()));
    }

    /// A figure without a goal.
    pub(crate) fn fact(&mut self, what: &str, value: f64, unit: &'static str) {
        self.add(what, Ok(value), unit, None);
    }

    /// A figure that is to be `goal` at most.
    pub(crate) fn figure(&mut self, what: &str, value: f64, unit: &'static str, goal: f64) {
        self.add(what, Ok(value), unit, Some(goal));
    }

    /// As [`Table::figure`], but `--strict` takes up to `at_most`: other processes' noise is in it.
    pub(crate) fn rough(&mut self, what: &str, value: f64, unit: &'static str, goal: f64, at_most: f64) {
        self.push(what, Ok(value), unit, Some(goal), Some(at_most));
    }

    pub(crate) fn add(&mut self, what: &str, value: Result<f64>, unit: &'static str, goal: Option<f64>) {
        self.push(what, value, unit, goal, goal);
    }

    fn push(
        &mut self,
        what: &str,
        value: Result<f64>,
        unit: &'static str,
        goal: Option<f64>,
        at_most: Option<f64>,
    ) {
        let value = value.map_err(|error| format!("{error:#}"));
        let row = Row::Figure {
            what: what.to_owned(),
            value,
            unit,
            goal,
            at_most,
        };
        eprintln!("  {}", row.text());
        self.rows.push(row);
    }

    pub(crate) fn missing(&mut self, what: &str, error: &anyhow::Error) {
        self.add(what, Err(anyhow::anyhow!("{error:#}")), "", None);
    }

    pub(crate) fn words(&mut self, text: String) {
        eprintln!("  {text}");
        self.rows.push(Row::Words(text));
    }

    /// Two rows, `what p50` and `what p99`.
    pub(crate) fn percentiles(
        &mut self,
        what: &str,
        values: &mut [f64],
        unit: &'static str,
        p50: Option<f64>,
        p99: Option<f64>,
    ) {
        let count = values.len();
        for (name, share, goal) in [("p50", 0.5, p50), ("p99", 0.99, p99)] {
            let value = percentile(values, share);
            let value = value.ok_or_else(|| anyhow::anyhow!("nothing was measured"));
            self.add(&format!("{what}, {name} of {count}"), value, unit, goal);
        }
    }

    /// Whether everything was measured, and nothing is above what `--strict` takes.
    pub(crate) fn held(&self) -> bool {
        self.rows.iter().all(|row| match row {
            Row::Figure { value: Err(_), .. } => false,
            Row::Figure {
                value: Ok(value),
                at_most: Some(most),
                ..
            } => value <= most,
            _ => true,
        })
    }

    pub(crate) fn print(&self) {
        for row in &self.rows {
            println!("{}", row.text());
        }
    }

    pub(crate) fn json_lines(&self) -> String {
        let rows = self.rows.iter().filter_map(Row::json);
        rows.fold(String::new(), |mut text, row| {
            let _ = writeln!(text, "{row}");
            text
        })
    }
}

impl Row {
    fn text(&self) -> String {
        match self {
            Self::Heading(text) => format!("\n{text}"),
            Self::Words(text) => format!("  {text}"),
            Self::Figure {
                what,
                value: Err(why),
                ..
            } => format!("{what:62} not measured: {why}"),
            Self::Figure {
                what,
                value: Ok(value),
                unit,
                goal,
                ..
            } => {
                let places = if value.abs() < 10.0 { 3 } else { 1 };
                let goal = goal.map_or(String::new(), |goal| {
                    let mark = if *value <= goal { "✔" } else { "✘" };
                    format!("{mark} goal ≤ {goal} {unit}")
                });
                let line = format!("{what:62} {value:>12.places$} {unit:8} {goal}");
                line.trim_end().to_owned()
            }
        }
    }

    fn json(&self) -> Option<Value> {
        match self {
            Self::Figure {
                what,
                value,
                unit,
                goal,
                ..
            } => Some(
                json!({"what": what, "value": value.as_ref().ok(), "unit": unit, "goal_at_most": goal,
                "not_measured": value.as_ref().err()}),
            ),
            Self::Heading(_) | Self::Words(_) => None,
        }
    }
}

/// The smallest value that at least this share of all does not exceed.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let place = (values.len() as f64 * share).ceil() as usize;
    values.get(place.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.5), Some(50.0));
        assert_eq!(percentile(&mut values, 0.99), Some(99.0));
        assert_eq!(percentile(&mut [7.0], 0.99), Some(7.0));
        assert_eq!(percentile(&mut [], 0.5), None);
    }

    #[test]
    fn a_goal_that_is_missed_and_a_row_without_a_figure_say_so() {
        let mut table = Table::default();
        table.figure("memory", 151.0, "MiB", 150.0);
        table.missing("time", &anyhow::anyhow!("no clock"));
        let lines = table.json_lines();
        assert!(table.rows[0].text().contains("✘ goal ≤ 150 MiB"));
        assert!(table.rows[1].text().ends_with("not measured: no clock"));
        assert!(lines.contains("\"not_measured\":\"no clock\""), "{lines}");
    }
}
