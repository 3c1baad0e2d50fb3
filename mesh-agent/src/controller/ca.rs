//! The certificate service: `istio.v1.auth.IstioCertificateService`, wire-compatible with istiod's, so that ztunnel and
//! Istio's agents can ask it too.
//!
//! A bearer token proves the caller (TokenReview), `decision` says whose certificate it gets, the request gives the key
//! and nothing else. Codes are istiod's: Unauthenticated, InvalidArgument, Internal; Unavailable while there is nothing
//! to decide by.

use super::authority::Authority;
use super::csr;
use super::decision::{self, Caller, Denial, Policy};
use super::metrics::Metrics;
use super::pods::PodIndex;
use super::reviews::Reviews;
use crate::ca::Clock;
use crate::ca::protocol::{
    AUDIENCE, CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, impersonated,
};
use crate::errors::chain;
use arc_swap::ArcSwapOption;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use parking_lot::RwLock;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

/// Longest time that one answer may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Larger than any request with one CSR.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Everything that an answer depends on.
pub struct CertificateService {
    /// The CA, once there is one.
    pub authority: Arc<ArcSwapOption<Authority>>,
    /// Every pod.
    pub pods: Arc<RwLock<PodIndex>>,
    /// Who may ask for what.
    pub policy: Policy,
    /// Reviews tokens.
    pub client: kube::Client,
    /// What it said of late.
    pub reviews: Reviews,
    /// Counts answers.
    pub metrics: Arc<Metrics>,
    /// Now.
    pub clock: Clock,
}

impl CertificateService {
    /// Answers one HTTP/2 request.
    ///
    /// # Errors
    /// None: refusals are gRPC statuses.
    pub async fn handle<B>(
        self: Arc<Self>,
        request: http::Request<B>,
    ) -> Result<http::Response<tonic::body::Body>, Infallible>
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        if request.uri().path() != CREATE_CERTIFICATE {
            return Ok(Status::unimplemented("no such method").into_http());
        }
        let codec = ProstCodec::<CertificateResponse, CertificateRequest>::default();
        let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_REQUEST_BYTES);
        Ok(grpc.unary(Method(self), request).await)
    }

    async fn create(&self, request: Request<CertificateRequest>) -> Result<CertificateResponse, Status> {
        let token = bearer(&request)?.to_owned();
        let message = request.into_inner();
        let caller = self.review(token).await?;
        let answer = self.answer(&caller, &message);
        if let Err(status) = &answer {
            tracing::warn!(
                caller = format!("{}/{}", caller.namespace, caller.service_account),
                node = caller.node,
                requested = impersonated(message.metadata.as_ref()),
                code = ?status.code(),
                reason = status.message(),
                "certificate refused"
            );
        }
        answer
    }

    async fn review(&self, token: String) -> Result<Caller, Status> {
        let now = (self.clock)();
        if let Some(caller) = self.reviews.get(&token, now) {
            return Ok(caller);
        }
        let question = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.clone()),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let api = kube::Api::<TokenReview>::all(self.client.clone());
        let review = api
            .create(&PostParams::default(), &question)
            .await
            .map_err(|error| {
                tracing::warn!(error = chain(&error), "cannot review a token");
                Status::unavailable("cannot review the token")
            })?;
        let status = review.status.unwrap_or_default();
        let caller = decision::caller(&status, AUDIENCE).map_err(|denial| {
            tracing::warn!(reason = %denial, "caller refused");
            Status::unauthenticated("authentication failure")
        })?;
        self.reviews.put(&token, &caller, now);
        Ok(caller)
    }

    fn answer(&self, caller: &Caller, message: &CertificateRequest) -> Result<CertificateResponse, Status> {
        let wanted = impersonated(message.metadata.as_ref());
        let identity = decision::identity(caller, wanted, &self.policy, &self.pods.read()).map_err(denied)?;
        let key = csr::read(&message.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let ttl = decision::ttl(message.validity_duration, &self.policy).map_err(denied)?;
        let authority = self
            .authority
            .load_full()
            .ok_or_else(|| Status::unavailable("the CA has no key yet"))?;
        let now = (self.clock)();
        let answer = authority
            .sign(&identity, &key, now, ttl)
            .map_err(|error| Status::internal(error.to_string()))?;
        tracing::info!(%identity, node = caller.node, not_after = answer.not_after, "certificate issued");
        Ok(CertificateResponse {
            cert_chain: answer.chain,
        })
    }
}

fn bearer(request: &Request<CertificateRequest>) -> Result<&str, Status> {
    let value = request.metadata().get("authorization");
    value
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Status::unauthenticated("authentication failure"))
}

fn denied(denial: Denial) -> Status {
    let text = denial.to_string();
    match denial {
        Denial::Token(_) | Denial::Impersonation(_) => Status::unauthenticated(text),
        Denial::Invalid(_) => Status::invalid_argument(text),
        Denial::NotReady(_) => Status::unavailable(text),
    }
}

struct Method(Arc<CertificateService>);

impl tonic::server::UnaryService<CertificateRequest> for Method {
    type Response = CertificateResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::Response>, Status>> + Send>>;

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = tokio::time::timeout(DEADLINE, service.create(request))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            service.metrics.answered(name(&answer));
            answer.map(Response::new)
        })
    }
}

fn name<T>(answer: &Result<T, Status>) -> &'static str {
    match answer.as_ref().map_err(Status::code) {
        Ok(_) => "OK",
        Err(Code::Unauthenticated) => "Unauthenticated",
        Err(Code::InvalidArgument) => "InvalidArgument",
        Err(Code::Unavailable) => "Unavailable",
        Err(Code::DeadlineExceeded) => "DeadlineExceeded",
        Err(_) => "Internal",
    }
}
