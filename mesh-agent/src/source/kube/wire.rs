//! What goes over the wire to the API server: requests, open watches, bytes. Agents are many, so each knows what it costs.

use super::figures::WireFigures;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use kube::client::Body;
use prometheus_client::metrics::gauge::Gauge;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::{BoxError, Layer, Service};

/// Counts what passes the service below it.
#[derive(Clone)]
pub(super) struct Counting(pub(super) WireFigures);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, below: S) -> Counted<S> {
        Counted {
            below,
            figures: self.0.clone(),
        }
    }
}

/// See [`Counting`].
#[derive(Clone)]
pub(super) struct Counted<S> {
    below: S,
    figures: WireFigures,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<UnsyncBoxBody<Bytes, BoxError>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.below.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let watches = is_watch(request.uri().query().unwrap_or_default());
        self.figures.asked(watches);
        let open = watches.then(|| Open::new(self.figures.open_watches.clone()));
        let bytes = self.figures.received.clone();
        let answer = self.below.call(request);
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| {
                let counted = body.map_frame(move |frame| {
                    // Closed when the body is.
                    let _open = &open;
                    let size = frame.data_ref().map_or(0, Bytes::len);
                    bytes.inc_by(size.try_into().unwrap_or(u64::MAX));
                    frame
                });
                counted.map_err(Into::into).boxed_unsync()
            }))
        })
    }
}

fn is_watch(query: &str) -> bool {
    query
        .split('&')
        .any(|part| matches!(part, "watch=true" | "watch=1"))
}

/// One watch that is open, or being opened.
struct Open(Gauge);

impl Open {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn bytes_are_counted_and_a_watch_is_open_until_its_body_is_dropped() {
        let figures = WireFigures::default();
        let below = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, BoxError>(Response::new(Full::new(Bytes::from_static(b"12345"))))
        });
        let mut service = Counting(figures.clone()).layer(below);
        let ask = |uri: &str| Request::get(uri).body(Body::empty()).unwrap();
        let list = service.call(ask("/api/v1/pods?limit=500")).await.unwrap();
        assert_eq!(figures.open_watches.get(), 0);
        let watch = service.call(ask("/api/v1/pods?a=b&watch=true")).await.unwrap();
        assert_eq!(figures.open_watches.get(), 1);
        for response in [list, watch] {
            response.into_body().collect().await.unwrap();
        }
        assert_eq!((figures.open_watches.get(), figures.received.get()), (0, 10));
    }
}
