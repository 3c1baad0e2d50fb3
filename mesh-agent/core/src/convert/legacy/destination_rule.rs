//! DestinationRule.

use super::super::Notes;
use super::{each, inner};
use crate::translate::value::FieldError;
use serde_json::{Map, Value, json};

pub(super) fn convert(spec: &mut Map<String, Value>, notes: &mut Notes<'_>) -> Result<(), FieldError> {
    if !spec.contains_key("host")
        && let Some(name) = spec.remove("name")
    {
        notes.add("spec.name", "is host now");
        spec.insert("host".into(), name);
    }
    level("spec", spec, notes)?;
    for (at, subset) in each("spec", spec, "subsets") {
        level(&at, subset, notes)?;
    }
    Ok(())
}

fn level(at: &str, fields: &mut Map<String, Value>, notes: &mut Notes<'_>) -> Result<(), FieldError> {
    let Some(policy) = inner(fields, "trafficPolicy") else {
        return Ok(());
    };
    let at = format!("{at}.trafficPolicy");
    settings(&at, policy, notes)?;
    for (at, port) in each(&at, policy, "portLevelSettings") {
        settings(&at, port, notes)?;
    }
    Ok(())
}

fn settings(at: &str, policy: &mut Map<String, Value>, notes: &mut Notes<'_>) -> Result<(), FieldError> {
    if let Some(balancer) = inner(policy, "loadBalancer") {
        load_balancer(&format!("{at}.loadBalancer"), balancer, notes)?;
    }
    if let Some(outliers) = inner(policy, "outlierDetection") {
        outlier_detection(&format!("{at}.outlierDetection"), outliers, notes)?;
    }
    Ok(())
}

fn load_balancer(
    at: &str,
    balancer: &mut Map<String, Value>,
    notes: &mut Notes<'_>,
) -> Result<(), FieldError> {
    if balancer
        .get("simple")
        .is_some_and(|simple| simple == "LEAST_CONN")
    {
        notes.add(format!("{at}.simple"), "LEAST_CONN is LEAST_REQUEST now");
        balancer.insert("simple".into(), "LEAST_REQUEST".into());
    }
    if let Some(time) = balancer.remove("warmupDurationSecs") {
        if balancer.contains_key("warmup") {
            return Err(FieldError::new(
                format!("{at}.warmupDurationSecs"),
                "cannot stand beside warmup, which took its place",
            ));
        }
        notes.add(format!("{at}.warmupDurationSecs"), "is warmup.duration now");
        balancer.insert("warmup".into(), json!({"duration": time}));
    }
    if let Some(hash) = inner(balancer, "consistentHash")
        && let Some(size) = hash.remove("minimumRingSize")
    {
        let at = format!("{at}.consistentHash.minimumRingSize");
        if hash.contains_key("ringHash") || hash.contains_key("maglev") {
            return Err(FieldError::new(at, "cannot stand beside ringHash or maglev"));
        }
        notes.add(at, "is ringHash.minimumRingSize now");
        hash.insert("ringHash".into(), json!({"minimumRingSize": size}));
    }
    Ok(())
}

fn outlier_detection(
    at: &str,
    outliers: &mut Map<String, Value>,
    notes: &mut Notes<'_>,
) -> Result<(), FieldError> {
    // The form of Istio 0.8.
    if let Some(Value::Object(http)) = outliers.remove("http") {
        notes.add(
            format!("{at}.http"),
            "its fields are those of outlierDetection itself now",
        );
        for (field, value) in http {
            if outliers.contains_key(&field) {
                return Err(FieldError::new(
                    format!("{at}.http.{field}"),
                    "is in outlierDetection too",
                ));
            }
            outliers.insert(field, value);
        }
    }
    if let Some(errors) = outliers.remove("consecutiveErrors") {
        let field = format!("{at}.consecutiveErrors");
        if outliers.contains_key("consecutiveGatewayErrors") {
            return Err(FieldError::new(
                field,
                "cannot stand beside consecutiveGatewayErrors",
            ));
        }
        // It counted 502, 503 and 504 only.
        notes.add(
            field,
            "is consecutiveGatewayErrors now, which counts what it counted: 502, 503, 504",
        );
        outliers.insert("consecutiveGatewayErrors".into(), errors);
    }
    Ok(())
}
