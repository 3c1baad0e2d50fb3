//! Load at a fixed rate: numbered requests that start on time whatever the earlier ones do, without retries, and an
//! account of every one that failed.

use crate::get::{Ask, percentile, reason};
use crate::say;
use anyhow::Result;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    ask: Ask,
    /// Requests a second.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Ends after this time; without it, at SIGTERM.
    #[arg(long)]
    seconds: Option<f64>,
    /// Reuses connections, one per request in flight, in place of a fresh one each.
    #[arg(long)]
    keepalive: bool,
    /// Writes one JSON line per request: `seq`, `start_ms` and `end_ms` (Unix time), `ok`, `status`, `field`, `error`.
    #[arg(long)]
    trace: Option<PathBuf>,
}

#[derive(Default)]
struct Tally {
    ok: u64,
    failures: Vec<Value>,
    statuses: BTreeMap<String, u64>,
    fields: BTreeMap<String, u64>,
    latencies: Vec<f64>,
    last_success: Option<Instant>,
    longest_gap: Duration,
    trace: Option<BufWriter<File>>,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, load(options))
}

async fn load(options: Options) -> Result<()> {
    let trace = options
        .trace
        .as_ref()
        .map(File::create)
        .transpose()?
        .map(BufWriter::new);
    let tally = Rc::new(RefCell::new(Tally {
        trace,
        ..Tally::default()
    }));
    let ask = Rc::new(options.ask);
    let pool = Rc::new(RefCell::new(Vec::new()));
    let mut stop = signal(SignalKind::terminate())?;
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / options.rate));
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let deadline = Duration::from_secs_f64(options.seconds.unwrap_or(86_400.0));
    let end = tokio::time::sleep(deadline);
    tokio::pin!(end);
    let mut inflight = tokio::task::JoinSet::new();
    let mut sent = 0u64;
    say(&json!({"event": "listening"}));
    loop {
        tokio::select! {
            biased;
            _ = stop.recv() => break,
            () = &mut end => break,
            _ = ticks.tick() => {
                let (ask, tally, pool) = (ask.clone(), tally.clone(), options.keepalive.then(|| pool.clone()));
                inflight.spawn_local(async move { one(&ask, pool, &tally, sent).await });
                sent += 1;
            }
            _ = seconds.tick() => say(&line(&tally.borrow(), sent)),
            Some(_) = inflight.join_next() => {}
        }
    }
    while inflight.join_next().await.is_some() {}
    let mut tally = tally.borrow_mut();
    if let Some(trace) = &mut tally.trace {
        trace.flush()?;
    }
    tally.latencies.sort_by(f64::total_cmp);
    let mut summary = line(&tally, sent);
    summary["summary"] = json!(true);
    summary["failures"] = json!(tally.failures);
    summary["p50_ms"] = json!(percentile(&tally.latencies, 0.5));
    summary["p99_ms"] = json!(percentile(&tally.latencies, 0.99));
    summary["max_ms"] = json!(tally.latencies.last());
    summary["longest_gap_ms"] = json!(tally.longest_gap.as_secs_f64() * 1e3);
    say(&summary);
    Ok(())
}

type Pool = Rc<RefCell<Vec<crate::get::Sender>>>;

async fn one(ask: &Ask, pool: Option<Pool>, tally: &RefCell<Tally>, sequence: u64) {
    let (start, start_ms) = (Instant::now(), now_ms());
    let result = match pool {
        None => ask.once(sequence).await,
        Some(pool) => on_pooled(ask, &pool, sequence).await,
    };
    let mut tally = tally.borrow_mut();
    let mut trace = json!({"seq": sequence, "start_ms": start_ms, "end_ms": now_ms(), "ok": false});
    match result {
        Ok(answer) => {
            trace["status"] = json!(answer.status);
            *tally.statuses.entry(answer.status.to_string()).or_default() += 1;
            if let Some(value) = answer.field(&ask.field) {
                trace["field"] = json!(value);
                *tally.fields.entry(value).or_default() += 1;
            }
            if answer.status < 400 {
                trace["ok"] = json!(true);
                tally.succeeded(start);
            } else {
                let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(400)]);
                trace["error"] = json!(format!("status {}: {body}", answer.status));
            }
        }
        Err(error) => trace["error"] = json!(reason(&error)),
    }
    if trace["ok"] == json!(false) && tally.failures.len() < 10_000 {
        tally
            .failures
            .push(json!({"seq": sequence, "at_ms": start_ms, "error": trace["error"]}));
    }
    if let Some(file) = &mut tally.trace {
        let _ = writeln!(file, "{trace}").and_then(|()| file.flush());
    }
}

impl Tally {
    fn succeeded(&mut self, start: Instant) {
        let now = Instant::now();
        self.ok += 1;
        self.latencies.push(start.elapsed().as_secs_f64() * 1e3);
        if let Some(last) = self.last_success.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }
}

async fn on_pooled(ask: &Ask, pool: &Pool, sequence: u64) -> Result<crate::get::Answer> {
    let kept = pool.borrow_mut().pop();
    let mut sender = match kept {
        Some(sender) => sender,
        None => ask.connect().await?,
    };
    let answer = ask.send(&mut sender, sequence).await?;
    let closes = answer
        .headers
        .get("connection")
        .is_some_and(|value| value == "close");
    if !closes {
        pool.borrow_mut().push(sender);
    }
    Ok(answer)
}

fn line(tally: &Tally, sent: u64) -> Value {
    json!({"at_ms": now_ms(), "sent": sent, "ok": tally.ok, "failed": tally.failures.len(),
           "statuses": tally.statuses, "fields": tally.fields})
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
