//! The services' answers.

use crate::Role;
use crate::grpc;
use crate::upstream::Upstream;
use anyhow::{Error, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;

type Body = UnsyncBoxBody<Bytes, Infallible>;

enum Service {
    Frontend {
        advertisement: grpc::Client,
        forecast: Upstream,
    },
    Advertisement,
    Forecast {
        version: String,
        recommendation: Upstream,
    },
    Recommendation,
}

struct App {
    service: Service,
    counts: Mutex<BTreeMap<String, u64>>,
}

/// Serves until killed.
pub(crate) async fn run(listen: SocketAddr, role: Role) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let app = Arc::new(App {
        service: Service::from(role),
        counts: Mutex::default(),
    });
    let line = json!({"event": "listening", "address": listener.local_addr()?.to_string()});
    writeln!(std::io::stdout(), "{line}")?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let app = app.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let app = app.clone();
                async move { Ok::<_, Infallible>(app.answer(request).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                eprintln!("{error}");
            }
        });
    }
}

impl From<Role> for Service {
    fn from(role: Role) -> Self {
        match role {
            Role::Frontend {
                advertisement,
                forecast,
                forecast_address,
                advertisement_address,
            } => {
                let upstream = Upstream {
                    authority: advertisement,
                    address: advertisement_address,
                };
                Self::Frontend {
                    advertisement: grpc::Client::new(upstream),
                    forecast: Upstream {
                        authority: forecast,
                        address: forecast_address,
                    },
                }
            }
            Role::Advertisement => Self::Advertisement,
            Role::Forecast {
                version,
                recommendation,
                recommendation_address,
            } => Self::Forecast {
                version,
                recommendation: Upstream {
                    authority: recommendation,
                    address: recommendation_address,
                },
            },
            Role::Recommendation => Self::Recommendation,
        }
    }
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        if path == "/stats" {
            return respond(Ok(
                json!({"counts": *self.counts.lock().unwrap_or_else(PoisonError::into_inner)}),
            ));
        }
        self.count(path, &parts.headers);
        match &self.service {
            Service::Frontend {
                advertisement,
                forecast,
            } => respond(page(advertisement, forecast, &parts.headers).await),
            Service::Advertisement => advertise(body).await,
            Service::Forecast {
                version,
                recommendation,
            } => respond(forecast_of(version, recommendation, &parts.headers).await),
            Service::Recommendation => respond(Ok(json!({"wear": "a coat", "carry": "an umbrella"}))),
        }
    }

    fn count(&self, path: &str, headers: &HeaderMap) {
        let id = headers
            .get("x-test-id")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(format!("{id} {path}")).or_default() += 1;
    }
}

async fn page(advertisement: &grpc::Client, forecast: &Upstream, headers: &HeaderMap) -> Result<Value> {
    let (advertisement, forecast) = tokio::join!(
        advertisement.call("Hangzhou", headers),
        forecast.get("/weather", headers)
    );
    let forecast = forecast?;
    Ok(json!({
        "server": forecast["version"], "version": forecast["version"], "weather": forecast["weather"],
        "recommendation": forecast.get("recommendation"), "advertisement": advertisement?,
    }))
}

async fn forecast_of(version: &str, recommendation: &Upstream, headers: &HeaderMap) -> Result<Value> {
    let mut weather = json!({"version": version, "weather": "rain, 14 degrees"});
    if version == "v2" {
        weather["recommendation"] = recommendation.get("/recommendation", headers).await?;
    }
    Ok(weather)
}

/// The gRPC method's answer: message, then the status in the trailers.
async fn advertise(body: Incoming) -> Response<Body> {
    let asked = body
        .collect()
        .await
        .map_err(Error::from)
        .and_then(|b| grpc::decode(&b.to_bytes()));
    let (data, code) = match asked {
        Ok(city) => (grpc::encode(&format!("Umbrellas for {city}: half price")), "0"),
        Err(_) => (Bytes::new(), "3"),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    let body = Full::new(data).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed_unsync());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// 200 with the page, or 502 with the reason why an upstream did not answer.
fn respond(answer: Result<Value>) -> Response<Body> {
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::BAD_GATEWAY, json!({"error": format!("{error:#}")})),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    response
}
