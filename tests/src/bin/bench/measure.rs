//! One sample: load on a cell for some seconds, and what its proxies spent meanwhile.

use crate::cells::{Cell, Suite};
use anyhow::{Context, Result, ensure};
use mesh_tests::podkit::last_json;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// What came out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    /// CPU seconds of the proxies per unit of work.
    pub(crate) cpu: Option<f64>,
    pub(crate) rss_mib: Option<f64>,
}

pub(crate) fn measure(suite: Suite, cell: &Cell, seconds: f64) -> Result<Sample> {
    if suite == Suite::Mem {
        return memory(cell);
    }
    let before = cpu(&cell.proxies);
    let (value, work) = match suite {
        Suite::Bulk1 => bulk(cell, 1, seconds)?,
        Suite::Bulk8 => bulk(cell, 8, seconds)?,
        Suite::Http1 => wrk(cell, seconds, false)?,
        Suite::NewConn => wrk(cell, seconds, true)?,
        Suite::Http2 => h2load(cell, seconds)?,
        Suite::Rate => rate(cell, seconds)?,
        Suite::Mem => unreachable!("answered above"),
    };
    let spent = cpu(&cell.proxies) - before;
    let cpu = (!cell.proxies.is_empty() && work > 0.0).then(|| spent / work);
    Ok(Sample {
        value,
        cpu,
        rss_mib: (!cell.proxies.is_empty()).then(|| rss(&cell.proxies)),
    })
}

/// Gbit/s and units of 10 GiB.
fn bulk(cell: &Cell, connections: usize, seconds: f64) -> Result<(f64, f64)> {
    let (to, connections, seconds) = (
        cell.to[2].to_string(),
        connections.to_string(),
        seconds.to_string(),
    );
    let answer = cell.client.podkit(&[
        "stream",
        "--to",
        &to,
        "--connections",
        &connections,
        "--seconds",
        &seconds,
    ])?;
    ensure!(answer["ok"] == true, "{}", answer["errors"]);
    let bytes = answer["bytes"].as_f64().context("bytes")?;
    Ok((
        answer["gbps"].as_f64().context("gbps")?,
        bytes / 10.0 / f64::from(1 << 30),
    ))
}

/// Requests a second and units of 100k; errors of any kind spoil the sample.
fn wrk(cell: &Cell, seconds: f64, fresh: bool) -> Result<(f64, f64)> {
    let url = format!("http://{}/", cell.to[0]);
    let duration = format!("{}s", seconds.round());
    let mut args = vec!["-t", "1", "-c", "32", "-d", &duration];
    if fresh {
        args.extend(["-H", "Connection: close"]);
    }
    args.push(&url);
    let text = output(cell, "wrk", &args)?;
    ensure!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "{}",
        text.trim()
    );
    let rate: f64 = number_after(&text, "Requests/sec:")?;
    let requests = text
        .lines()
        .find(|line| line.contains(" requests in "))
        .context("wrk's total")?;
    let requests: f64 = requests.trim().split(' ').next().unwrap_or_default().parse()?;
    Ok((rate, requests / 1e5))
}

fn h2load(cell: &Cell, seconds: f64) -> Result<(f64, f64)> {
    let url = format!("http://{}/", cell.to[1]);
    let duration = seconds.round().to_string();
    let text = output(
        cell,
        "h2load",
        &["-t", "1", "-c", "8", "-m", "16", "-D", &duration, &url],
    )?;
    let line = text
        .lines()
        .find(|line| line.starts_with("finished in"))
        .context("h2load's result")?;
    let rate = line
        .split(", ")
        .nth(1)
        .and_then(|part| part.strip_suffix(" req/s"))
        .context("h2load's rate")?;
    let total = text
        .lines()
        .find(|line| line.starts_with("status codes:"))
        .context("h2load's codes")?;
    let good: f64 = number_after(total, "status codes:")?;
    ensure!(good > 0.0, "{}", text.trim());
    Ok((rate.parse()?, good / 1e5))
}

fn rate(cell: &Cell, seconds: f64) -> Result<(f64, f64)> {
    let (to, seconds) = (cell.to[0].to_string(), seconds.to_string());
    let answer = cell.client.podkit(&[
        "load",
        "--to",
        &to,
        "--rate",
        "1000",
        "--keepalive",
        "--seconds",
        &seconds,
    ])?;
    ensure!(
        answer["failed"] == 0,
        "{} requests failed: {}",
        answer["failed"],
        answer["failures"][0]
    );
    Ok((
        answer["p50_ms"].as_f64().context("p50")?,
        answer["ok"].as_f64().context("ok")? / 1e5,
    ))
}

/// Resident memory of the proxies with 1,000 connections held, each after one request.
fn memory(cell: &Cell) -> Result<Sample> {
    let to = cell.to[0].to_string();
    let mut hold = cell.client.start_podkit(&[
        "hold",
        "--to",
        &to,
        "--connections",
        "1000",
        "--seconds",
        "2",
        "--host",
        "bench",
    ])?;
    mesh_tests::eventually("1,000 connections", Duration::from_secs(30), || {
        (hold.stdout().contains("\"listening\"") || !hold.running()).then_some(())
    })?;
    let said = last_json(&hold.stdout())?;
    ensure!(said["failed"] == 0, "{said}");
    let rss = rss(&cell.proxies);
    hold.wait(Duration::from_secs(10))?;
    Ok(Sample {
        value: rss,
        cpu: None,
        rss_mib: Some(rss),
    })
}

fn output(cell: &Cell, program: &str, args: &[&str]) -> Result<String> {
    let output = cell.client.output(program.as_ref(), args)?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn number_after(text: &str, label: &str) -> Result<f64> {
    let rest = text
        .split(label)
        .nth(1)
        .with_context(|| format!("no {label} in {text}"))?;
    Ok(rest.split_whitespace().next().unwrap_or_default().parse()?)
}

fn pids(cgroups: &[PathBuf]) -> Vec<u32> {
    let read = |cgroup: &PathBuf| fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    cgroups
        .iter()
        .flat_map(|c| read(c).lines().filter_map(|l| l.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// CPU seconds that the processes in these cgroups have used (`/proc/PID/stat`, user and system).
fn cpu(cgroups: &[PathBuf]) -> f64 {
    // SAFETY: sysconf only reads a constant of the system.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let of = |pid: u32| -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold spaces and parentheses; fields 14 and 15 are counted from behind its end.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / ticks)
    };
    pids(cgroups).into_iter().filter_map(of).sum()
}

fn rss(cgroups: &[PathBuf]) -> f64 {
    let of = |pid: u32| -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("Rss:"))?
            .split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
    };
    pids(cgroups).into_iter().filter_map(of).sum::<f64>() / 1024.0
}
