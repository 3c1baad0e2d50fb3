//! One request as telemetry sees it, from head to the last byte of the response.

use super::super::pair::{NO_FLAGS, Numbers, Pair};
use super::super::worker::Worker;
use super::body::Traffic;
use crate::telemetry::access_log;
use crate::telemetry::labels::HttpLabels;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use std::rc::Rc;
use std::time::Instant;

/// Reported when it is completed or dropped; dropped means that the client did not get the whole response.
pub(super) struct Record {
    worker: Rc<Worker>,
    pair: Option<Pair>,
    started: Instant,
    pub(super) grpc: bool,
    grpc_status: Option<u8>,
    code: u16,
    flags: &'static str,
    /// A fault's delay was injected.
    delayed: bool,
    error: &'static str,
    pub(super) attempts: u32,
    request: Option<Rc<Traffic>>,
    response: Traffic,
    text: Option<Box<Text>>,
    done: bool,
}

/// What only the access log needs.
pub(super) struct Text {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) authority: String,
    pub(super) request_id: String,
    pub(super) route: String,
}

impl Record {
    /// Begins with the head of the request.
    pub(super) fn begin(worker: &Rc<Worker>, grpc: bool) -> Self {
        Self {
            worker: Rc::clone(worker),
            pair: None,
            started: Instant::now(),
            grpc,
            grpc_status: None,
            code: 0,
            flags: NO_FLAGS,
            delayed: false,
            error: "",
            attempts: 0,
            request: None,
            response: Traffic::default(),
            text: None,
            done: false,
        }
    }

    /// Who talks to whom.
    pub(super) fn between(&mut self, pair: Pair) {
        self.pair = Some(pair);
    }

    /// What the access log needs.
    pub(super) fn describe(&mut self, text: Box<Text>) {
        self.text = Some(text);
    }

    /// The counter of the request's body.
    pub(super) fn count_request(&mut self, traffic: Rc<Traffic>) {
        self.request = Some(traffic);
    }

    /// The status to be reported.
    pub(super) const fn status(&mut self, code: u16) {
        self.code = code;
    }

    /// Status and grpc-status of the response's head.
    pub(super) fn head(&mut self, code: u16, headers: &HeaderMap) {
        self.code = code;
        self.grpc_trailer(headers);
    }

    /// What went wrong.
    pub(super) const fn fail(&mut self, flags: &'static str, error: &'static str) {
        self.flags = flags;
        self.error = error;
    }

    /// A fault's delay is injected.
    pub(super) const fn delayed(&mut self) {
        self.delayed = true;
    }

    /// Counts a frame of the response.
    pub(super) fn response_frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.response.add(data, self.grpc);
        } else if let Some(trailers) = frame.trailers_ref() {
            self.grpc_trailer(trailers);
        }
    }

    /// The whole response was given to the client's connection.
    pub(super) fn complete(mut self) {
        self.report();
    }

    fn grpc_trailer(&mut self, headers: &HeaderMap) {
        if self.grpc
            && let Some(status) = headers.get("grpc-status")
        {
            self.grpc_status = status
                .to_str()
                .ok()
                .and_then(|s| s.parse().ok())
                .filter(|s| *s <= 16);
        }
    }

    fn report(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let Some(mut pair) = self.pair.take() else { return };
        if self.delayed {
            self.flags = with_delay(self.flags);
        }
        // A code that no client can choose more than a thousand of.
        let code = if self.code < 1_000 { self.code } else { 0 };
        let grpc = self.grpc.then(|| self.grpc_status.unwrap_or(GRPC_UNKNOWN));
        let duration = self.started.elapsed();
        let received = self.request.as_ref().map_or(0, |t| t.bytes());
        for labels in pair.outbound.iter_mut().chain(pair.inbound.iter_mut()) {
            labels.flags = self.flags;
            let labels = HttpLabels {
                pair: labels.clone(),
                code,
                grpc,
            };
            let series = self.worker.meter.http(&labels);
            series.requests.inc();
            series.duration_ms.observe(duration.as_secs_f64() * 1e3);
            series.request_bytes.observe(received as f64);
            series.response_bytes.observe(self.response.bytes() as f64);
            if let Some((from_client, from_server)) = &series.messages {
                from_client.inc_by(self.request.as_ref().map_or(0, |t| t.messages()));
                from_server.inc_by(self.response.messages());
            }
        }
        if let Some(text) = self.text.take() {
            let request = access_log::Request {
                method: &text.method,
                path: &text.path,
                authority: &text.authority,
                request_id: &text.request_id,
                code,
                route: &text.route,
                attempts: self.attempts,
            };
            for labels in pair.reports() {
                let numbers = Numbers {
                    sent: self.response.bytes(),
                    received,
                    duration,
                    flags: self.flags,
                    error: self.error,
                };
                self.worker
                    .telemetry()
                    .access
                    .request(&pair.line(labels, &numbers), &request);
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.done && self.flags == NO_FLAGS {
            self.fail("DC", "client left");
        }
        self.report();
    }
}

/// Flags together with `DI`, in Envoy's order.
const fn with_delay(flags: &'static str) -> &'static str {
    match flags.as_bytes() {
        b"FI" => "DI,FI",
        b"UH" => "UH,DI",
        b"UF" => "UF,DI",
        b"UC" => "UC,DI",
        b"UT" => "UT,DI",
        b"NR" => "NR,DI",
        b"NC" => "DI,NC",
        b"DC" => "DI,DC",
        _ => "DI",
    }
}

/// `grpc-status` of a response that has none (gRPC: UNKNOWN).
const GRPC_UNKNOWN: u8 = 2;
