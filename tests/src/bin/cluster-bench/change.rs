//! Changes of endpoints, and when the data path has them: one service that the kernel serves itself is changed through
//! the API, and its entry in the agent's map is looked at until it says the same.

use crate::Size;
use crate::agent::Agent;
use crate::api::{Api, send};
use crate::objects::{Mesh, name, namespace};
use crate::server;
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Method;
use mesh_tests::bpf_maps::PinnedMap;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// The service that is looked at: the first opaque one.
const PROBED: u32 = 0;
/// A change that is not in force by then is lost.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at the map.
const LOOK: Duration = Duration::from_micros(300);
/// Pause between two changes that are looked at.
const PAUSE: Duration = Duration::from_millis(60);
/// Writes under way at once, above which the storm waits for the API server.
const IN_FLIGHT: usize = 64;

fn slice_path(service: u32) -> String {
    let group = "/apis/discovery.k8s.io/v1/namespaces";
    format!(
        "{group}/{}/endpointslices/{}-x7k2p",
        namespace(service),
        name(service)
    )
}

/// Looks at the entry of one service, on a thread of its own.
struct Probe {
    expect: Sender<u32>,
    seen: Receiver<Result<Instant>>,
    /// When the write was sent.
    sent: Instant,
    round: u32,
}

impl Probe {
    fn new(api: &Api, agent: &Agent) -> Result<Self> {
        let path = format!(
            "/api/v1/namespaces/{}/services/{}",
            namespace(PROBED),
            name(PROBED)
        );
        let object = api.get_json(&path)?;
        let vip: Ipv4Addr = object["spec"]["clusterIP"].as_str().unwrap_or_default().parse()?;
        let map = agent.map("SERVICES")?;
        let mut key = vip.to_ipv6_mapped().octets().to_vec();
        key.extend(80u16.to_ne_bytes());
        key.extend([0, 0]);
        ensure!(map.get(&key).is_some(), "the data path has no service {vip}:80");
        let (expect, expected) = channel();
        let (tell, seen) = channel();
        std::thread::spawn(move || {
            for backends in expected {
                if tell.send(look(&map, &key, backends)).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            expect,
            seen,
            sent: Instant::now(),
            round: 0,
        })
    }

    /// The next version of the slice. The clock runs from here.
    fn begin(&mut self, mesh: &Mesh) -> Result<Value> {
        self.round += 1;
        let out = self.round % 2;
        let first = self.round / 2 % mesh.per_service();
        self.sent = Instant::now();
        self.expect.send(mesh.per_service() - out)?;
        Ok(mesh.slice(PROBED, |i| out == 1 && i == first))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// When the entry has as many backends.
fn look(map: &PinnedMap, key: &[u8], backends: u32) -> Result<Instant> {
    let start = Instant::now();
    // struct Service: id, flags, backends, total weight.
    let there = || Some(u32::from_ne_bytes(map.get(key)?.get(8..12)?.try_into().ok()?));
    while there() != Some(backends) {
        ensure!(
            start.elapsed() < LIMIT,
            "a change was not in force after {LIMIT:?}"
        );
        std::thread::sleep(LOOK);
    }
    Ok(Instant::now())
}

/// Changes with nothing else going on.
pub(crate) fn one_by_one(api: &Api, agent: &Agent, size: &Size, table: &mut Table) {
    let what = "endpoint change → data path, from the write's sending";
    let measure = || -> Result<(Vec<f64>, f64)> {
        let mut probe = Probe::new(api, agent)?;
        let (mut times, mut cpu) = (Vec::new(), 0.0);
        for round in 0..100 * size.rounds {
            let before = agent.process.cpu().context("the agent has ended")?;
            let object = probe.begin(&size.mesh)?;
            api.block_on(send(&api.client(), Method::PUT, &slice_path(PROBED), &object))?;
            times.push(millis(probe.seen.recv()??.saturating_duration_since(probe.sent)));
            // Not in step with the agent's batches.
            std::thread::sleep(PAUSE + Duration::from_millis(u64::from(round) * 7 % 50));
            let after = agent.process.cpu().context("the agent has ended")?;
            cpu += (after.saturating_sub(before)).as_secs_f64();
        }
        Ok((times, cpu))
    };
    match measure() {
        Ok((mut times, cpu)) => {
            let count = f64::from(100 * size.rounds);
            table.percentiles(what, &mut times, "ms", Some(50.0), Some(500.0));
            table.fact("agent: CPU for such a change", cpu / count * 1_000.0, "ms");
        }
        Err(error) => table.missing(what, &error),
    }
}

struct Storm {
    /// From a write's sending to the data path.
    times: Vec<f64>,
    /// From the API server's answer to the data path.
    answered: Vec<f64>,
    writes: u32,
    failed: u32,
    write_times: Vec<f64>,
    seconds: f64,
}

/// As many changes a second as are asked for, or as the API server takes.
pub(crate) fn storm(api: &Api, agent: &Agent, size: &Size, table: &mut Table) {
    table.heading(&format!(
        "storm: {} changes/s for {} s are tried",
        size.storm_rate,
        size.storm.as_secs()
    ));
    let (before, server) = (agent.process.cpu(), server::cpu(api));
    let seen = agent.events(api, "EndpointSlice");
    let storm = match Probe::new(api, agent).and_then(|probe| api.block_on(blow(api, size, probe))) {
        Ok(storm) => storm,
        Err(error) => return table.missing("storm", &error),
    };
    let Storm {
        mut times,
        mut answered,
        writes,
        failed,
        mut write_times,
        seconds,
    } = storm;
    let rate = f64::from(writes) / seconds;
    table.fact("changes a second that the API server took", rate, "1/s");
    table.fact("changes that it refused", f64::from(failed), "");
    table.percentiles(
        "write of a change in the storm",
        &mut write_times,
        "ms",
        None,
        None,
    );
    let what = "endpoint change → data path in the storm, from the sending";
    table.percentiles(what, &mut times, "ms", None, Some(2_000.0));
    let what = "endpoint change → data path in the storm, from the answer";
    table.percentiles(what, &mut answered, "ms", None, None);
    let used = || {
        Ok::<_, anyhow::Error>(agent.process.cpu().context("it has ended")? - before.context("it had ended")?)
    };
    match used() {
        Ok(used) => {
            let cores = used.as_secs_f64() / seconds;
            table.figure("agent: CPU in the storm", cores, "cores", 1.0);
            let each = used.as_secs_f64() / f64::from(writes.max(1));
            table.words(format!(
                "{:.3} ms for each change; at {} changes/s that would be {:.2} cores",
                each * 1_000.0,
                size.storm_rate,
                each * f64::from(size.storm_rate)
            ));
        }
        Err(error) => table.missing("agent: CPU in the storm", &error),
    }
    let events = seen.and_then(|before| Ok(agent.events(api, "EndpointSlice")? - before));
    table.add("events that the agent took in", events, "", None);
    let server = server.and_then(|before| Ok((server::cpu(api)? - before) / seconds));
    table.add("API server: CPU in the storm", server, "cores", None);
    agent.memory(table, "after the storm");
}

async fn blow(api: &Api, size: &Size, mut probe: Probe) -> Result<Storm> {
    let client = api.client();
    let mut storm = Storm {
        times: Vec::new(),
        answered: Vec::new(),
        writes: 0,
        failed: 0,
        write_times: Vec::new(),
        seconds: 0.0,
    };
    let mut writing = FuturesUnordered::new();
    let (mut tried, mut random) = (0, 0x2545_f491_4f6c_dd1d_u64);
    let (mut probing, mut probed) = (false, Instant::now());
    let (mut seen, mut answer) = (None, None);
    let start = Instant::now();
    while start.elapsed() < size.storm {
        if let Ok(found) = probe.seen.try_recv() {
            seen = Some(found?);
        }
        if let (Some(at), Some(answered)) = (seen, answer) {
            storm.times.push(millis(at.saturating_duration_since(probe.sent)));
            storm
                .answered
                .push(millis(at.saturating_duration_since(answered)));
            (probing, probed, seen, answer) = (false, Instant::now(), None, None);
        }
        let due = start.elapsed().as_secs_f64() * f64::from(size.storm_rate);
        while f64::from(tried) < due && writing.len() < IN_FLIGHT {
            tried += 1;
            let probes = !probing && probed.elapsed() > PAUSE;
            let (service, object) = if probes {
                probing = true;
                (PROBED, probe.begin(&size.mesh)?)
            } else {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                change(&size.mesh, random)
            };
            let client = client.clone();
            writing.push(async move {
                let sent = Instant::now();
                let done = send(&client, Method::PUT, &slice_path(service), &object).await;
                (done.is_ok(), sent.elapsed(), probes)
            });
        }
        tokio::select! {
            Some((done, took, probes)) = writing.next() => {
                ensure!(done || !probes, "the change that was looked for was refused");
                storm.writes += u32::from(done);
                storm.failed += u32::from(!done);
                storm.write_times.push(millis(took));
                if probes {
                    answer = Some(Instant::now());
                }
            }
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    storm.seconds = start.elapsed().as_secs_f64();
    while let Some((done, ..)) = writing.next().await {
        storm.writes += u32::from(done);
    }
    Ok(storm)
}

/// Some service's slice, with one endpoint less or as many as there are.
fn change(mesh: &Mesh, random: u64) -> (u32, Value) {
    let below = |number: u64, limit: u32| u32::try_from(number % u64::from(limit)).unwrap_or(0);
    let service = 1 + below(random >> 8, mesh.services - 1);
    let out = below(random >> 40, mesh.per_service() + 1);
    (service, mesh.slice(service, |i| i == out))
}
