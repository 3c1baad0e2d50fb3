//! Label selectors (`metav1.LabelSelector`).

use crate::translate::value::FieldError;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What labels must be like. Without a condition it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    conditions: Vec<(Arc<str>, Condition)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    In(Vec<Arc<str>>),
    NotIn(Vec<Arc<str>>),
    Exists,
    Absent,
}

impl LabelSelector {
    /// Whether these labels are selected.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        self.conditions.iter().all(|(key, condition)| {
            let value = labels.get(key);
            match condition {
                Condition::In(values) => value.is_some_and(|v| values.contains(v)),
                Condition::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Condition::Exists => value.is_some(),
                Condition::Absent => value.is_none(),
            }
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Raw {
    match_labels: Option<BTreeMap<Arc<str>, Arc<str>>>,
    match_expressions: Option<Vec<RawExpression>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpression {
    key: Arc<str>,
    operator: String,
    values: Option<Vec<Arc<str>>>,
}

pub(super) fn selector(at: &str, raw: Raw) -> Result<LabelSelector, FieldError> {
    let labels = raw.match_labels.unwrap_or_default().into_iter();
    let mut conditions: Vec<_> = labels
        .map(|(key, value)| (key, Condition::In(vec![value])))
        .collect();
    for (i, raw) in raw.match_expressions.into_iter().flatten().enumerate() {
        let values = raw.values.unwrap_or_default();
        let condition = match (raw.operator.as_str(), values.is_empty()) {
            ("In", false) => Condition::In(values),
            ("NotIn", false) => Condition::NotIn(values),
            ("Exists", true) => Condition::Exists,
            ("DoesNotExist", true) => Condition::Absent,
            _ => {
                let reason = "expected In or NotIn with values, or Exists or DoesNotExist without";
                return Err(FieldError::new(
                    format!("{at}.matchExpressions[{i}].operator"),
                    reason,
                ));
            }
        };
        conditions.push((raw.key, condition));
    }
    Ok(LabelSelector { conditions })
}
