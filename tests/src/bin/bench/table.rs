//! Minimum, median, maximum, and the ratio to direct on the same path.

use crate::cells::{Cell, Suite};
use crate::measure::Sample;
use serde_json::{Value, json};
use std::collections::BTreeMap;

type Key = (Suite, &'static str, &'static str, &'static str, &'static str);

/// Samples by suite, path, target, layer and TLS.
#[derive(Default)]
pub(crate) struct Results {
    samples: BTreeMap<Key, Vec<Sample>>,
}

impl Results {
    pub(crate) fn add(&mut self, suite: Suite, cell: &Cell, sample: Sample) {
        self.samples
            .entry((suite, cell.path, cell.target, cell.layer, cell.tls))
            .or_default()
            .push(sample);
    }

    /// One JSON object per row of the table.
    pub(crate) fn rows(&self) -> Vec<Value> {
        let middle = |key: &Key| {
            self.samples
                .get(key)
                .and_then(|s| median(s.iter().map(|s| s.value)))
        };
        let row = |(key, samples): (&Key, &Vec<Sample>)| {
            let (suite, path, target, layer, tls) = *key;
            let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
            let (own, direct) = (middle(key), middle(&(suite, path, "direct", "none", "plaintext")));
            let ratio = own.zip(direct).map(|(own, direct)| own / direct);
            json!({
                "suite": suite.name(), "target": target, "layer": layer, "tls": tls, "path": path,
                "unit": suite.unit(), "min": values.iter().copied().reduce(f64::min), "median": own,
                "max": values.iter().copied().reduce(f64::max), "ratio_to_direct": ratio,
                "proxy_cpu_s": median(samples.iter().filter_map(|sample| sample.cpu)), "per": suite.per(),
                "rss_mib": median(samples.iter().filter_map(|sample| sample.rss_mib)),
            })
        };
        self.samples.iter().map(row).collect()
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values.get(middle).copied()
    } else {
        Some((values.get(middle)? + values.get(middle.checked_sub(1)?)?) / 2.0)
    }
}

pub(crate) fn json_lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

pub(crate) fn print(rows: &[Value]) {
    println!(
        "{:8} {:10} {:8} {:5} {:10} {:>11} {:>11} {:>11} {:>7} {:>9} {:>8}  unit; CPU per",
        "suite", "path", "target", "layer", "tls", "min", "median", "max", "x direct", "cpu s", "rss MiB"
    );
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let number = |name: &str| {
            row[name]
                .as_f64()
                .map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
        };
        println!(
            "{:8} {:10} {:8} {:5} {:10} {:>11} {:>11} {:>11} {:>7} {:>9} {:>8}  {}; {}",
            text("suite"),
            text("path"),
            text("target"),
            text("layer"),
            text("tls"),
            number("min"),
            number("median"),
            number("max"),
            number("ratio_to_direct"),
            number("proxy_cpu_s"),
            number("rss_mib"),
            text("unit"),
            text("per")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_of_an_even_number_is_between_the_two() {
        assert_eq!(median([4.0, 1.0, 3.0].into_iter()), Some(3.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
