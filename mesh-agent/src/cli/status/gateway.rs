//! A gateway in a page.

use super::{print_certificates, print_problems, rows, text};
use serde_json::Value;

/// Prints one gateway's answer.
pub(super) fn print(status: &Value) {
    let gateway = &status["gateway"];
    println!(
        "\ngateway {}{}, version {}, pid {}, up {} s, {}, snapshot {}",
        text(&gateway["pod"]),
        gateway["serves"]
            .as_str()
            .map(|serves| format!(" of Gateway {serves}"))
            .unwrap_or_default(),
        text(&gateway["version"]),
        text(&gateway["pid"]),
        text(&gateway["uptime_s"]),
        if gateway["ready"] == true {
            "ready"
        } else {
            "not ready"
        },
        text(&gateway["snapshot"]),
    );
    println!(
        "\n{:<6} {:<6} {:<18} {:<48} {:<30} STATE",
        "PORT", "POD", "PROTOCOL", "LISTENER", "HOSTS"
    );
    for port in rows(&status["ports"]) {
        for listener in rows(&port["listeners"]) {
            let hosts: Vec<String> = rows(&listener["hosts"]).iter().map(text).collect();
            println!(
                "{:<6} {:<6} {:<18} {:<48} {:<30} {}",
                text(&listener["port"]),
                text(&port["port"]),
                text(&listener["protocol"]),
                format!("{} {}", text(&listener["object"]), text(&listener["field"])),
                hosts.join(" "),
                state(port, listener),
            );
        }
    }
    print_certificates(status);
    print_problems(status);
}

/// What a listener serves, or why it serves nothing.
fn state(port: &Value, listener: &Value) -> String {
    let tls = &listener["tls"];
    if let Some(failure) = port["failure"].as_str() {
        return format!("PORT NOT OPEN: {failure}");
    }
    if let Some(broken) = tls["broken"].as_str() {
        return format!("SERVES NOTHING: {broken}");
    }
    let mut text = match (&listener["hosts_with_rules"], &listener["connection_tables"]) {
        (hosts, tables) if *hosts == 0 && *tables == 0 => "no rules".to_owned(),
        (hosts, tables) if *tables == 0 => format!("rules for {hosts} hosts"),
        (_, tables) => format!("{tables} tables for connections"),
    };
    let certificates: Vec<String> = rows(&tls["certificates"]).iter().map(super::text).collect();
    if !certificates.is_empty() {
        text += &format!(", {}", certificates.join(", "));
    }
    text
}
