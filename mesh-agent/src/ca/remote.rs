//! Asks a certificate service elsewhere: Heddle's controller, istiod or istio-csr.
//!
//! The agent proves itself by its projected service-account token, read anew for each question because the kubelet
//! replaces it, and asks for the pods of its node (`ImpersonatedIdentity`). The key never leaves this process. An answer
//! counts only if it proves the identity asked for, with the key made for it, under the roots that came with it.

use super::protocol::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, impersonate};
use super::signer::{certificates, leaf_key};
use super::{CaError, CertificateAuthority, Issued, Issuing};
use crate::errors::chain;
use crate::tls::config::provider;
use crate::tls::{IdentityMaterial, peer_identity};
use http::uri::PathAndQuery;
use mesh_core::model::identity::SpiffeId;
use parking_lot::Mutex;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use x509_parser::prelude::{FromDer, X509Certificate};

/// An answer takes no longer than this, connecting included.
const DEADLINE: Duration = Duration::from_secs(5);
/// More than any chain with its roots.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// PEM of the roots by which the CA's server certificate is verified, or why there is none yet. Asked at each connect.
pub type RootSource =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send>> + Send + Sync>;

/// Where the CA is and how each side proves itself.
pub struct RemoteConfig {
    /// `host:port`.
    pub address: String,
    /// Name that the server's certificate must have.
    pub server_name: String,
    /// File of the token, audience `istio-ca`.
    pub token: PathBuf,
    /// Roots of the server's certificate.
    pub roots: RootSource,
    /// Life to ask for, seconds. The CA may give less.
    pub ttl: u64,
}

/// A certificate service elsewhere.
pub struct RemoteCa {
    config: RemoteConfig,
    /// Kept from one question to the next; gone after one that could not be asked.
    channel: Mutex<Option<Channel>>,
}

/// The name to verify for `address`: its host, or Heddle's own service where the host is an IP address, which no
/// certificate of a CA names.
#[must_use]
pub fn server_name(address: &str, namespace: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<std::net::IpAddr>().is_ok() {
        format!("heddle-controller.{namespace}.svc")
    } else {
        host.trim_end_matches('.').to_owned()
    }
}

impl RemoteCa {
    /// Connects at the first question.
    #[must_use]
    pub fn new(config: RemoteConfig) -> Self {
        Self {
            config,
            channel: Mutex::new(None),
        }
    }

    async fn ask(&self, identity: &SpiffeId, now: u64) -> Result<Issued, CaError> {
        let refused = |reason: String| CaError::Refused {
            address: self.config.address.clone(),
            identity: identity.clone(),
            reason,
        };
        let key = leaf_key().map_err(|error| refused(error.to_string()))?;
        let csr = request_for(identity, &key).map_err(|error| refused(error.to_string()))?;
        let message = CertificateRequest {
            csr,
            validity_duration: i64::try_from(self.config.ttl).unwrap_or(i64::MAX),
            metadata: Some(impersonate(identity)),
        };
        let answer = match tokio::time::timeout(DEADLINE, self.call(message)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Failure::Status(status))) if !is_away(status.code()) => {
                return Err(refused(format!("{}: {}", status.code(), status.message())));
            }
            Ok(Err(failure)) => return Err(self.away(failure.to_string())),
            Err(_) => return Err(self.away(format!("no answer within {} s", DEADLINE.as_secs()))),
        };
        accept(identity, &key, &answer.cert_chain, now).map_err(refused)
    }

    async fn call(&self, message: CertificateRequest) -> Result<CertificateResponse, Failure> {
        let path = &self.config.token;
        let token = tokio::fs::read_to_string(path)
            .await
            .map_err(|error| Failure::Local(format!("{}: {error}", path.display())))?;
        let mut bearer: MetadataValue<_> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| Failure::Local(format!("{}: holds no token", path.display())))?;
        bearer.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", bearer);
        let mut client =
            tonic::client::Grpc::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER_BYTES);
        client
            .ready()
            .await
            .map_err(|error| Failure::Local(chain(&error)))?;
        let codec = ProstCodec::<CertificateRequest, CertificateResponse>::default();
        let answer = client
            .unary(request, PathAndQuery::from_static(CREATE_CERTIFICATE), codec)
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| Failure::Status(Box::new(status)))
    }

    async fn channel(&self) -> Result<Channel, Failure> {
        if let Some(channel) = self.channel.lock().clone() {
            return Ok(channel);
        }
        let pem = (self.config.roots)().await.map_err(Failure::Local)?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(pem))
            .domain_name(self.config.server_name.clone());
        let channel = Endpoint::from_shared(format!("https://{}", self.config.address))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(|error| Failure::Local(chain(&error)))?
            .connect_timeout(DEADLINE)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .connect_lazy();
        *self.channel.lock() = Some(channel.clone());
        Ok(channel)
    }

    /// Another answer may need other roots: the next question connects anew.
    fn away(&self, reason: String) -> CaError {
        self.channel.lock().take();
        CaError::Away {
            address: self.config.address.clone(),
            reason,
        }
    }
}

impl CertificateAuthority for RemoteCa {
    fn issue<'a>(&'a self, identity: &'a SpiffeId, now: u64) -> Issuing<'a> {
        Box::pin(self.ask(identity, now))
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Local(String),
    #[error("{}: {}", .0.code(), told(.0))]
    Status(Box<Status>),
}

fn told(status: &Status) -> String {
    std::error::Error::source(status).map_or_else(|| status.message().to_owned(), chain)
}

/// Codes that say nothing about the identity asked for.
fn is_away(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::Unimplemented
    )
}

/// Empty subject and one URI SAN, as ztunnel asks and istio-csr demands.
fn request_for(identity: &SpiffeId, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.serialize_request(key)?.pem()
}

/// Checks an answer and takes it. `chain`: leaf, intermediates, last the roots.
fn accept(identity: &SpiffeId, key: &KeyPair, chain: &[String], now: u64) -> Result<Issued, String> {
    let Some((roots, sent)) = chain.split_last().filter(|(_, sent)| !sent.is_empty()) else {
        return Err(format!(
            "answer has {} certificates, expected leaf and root",
            chain.len()
        ));
    };
    let read = |pem: &String| certificates(pem.as_bytes()).map_err(|error| format!("answer: {error}"));
    let roots = read(roots)?;
    let mut sent_certificates = Vec::new();
    for pem in sent {
        sent_certificates.extend(read(pem)?);
    }
    let proven = peer_identity(&sent_certificates).map_err(|error| format!("answer: {error}"))?;
    if proven != *identity {
        return Err(format!("answer proves {proven}"));
    }
    let (_, leaf) =
        X509Certificate::from_der(&sent_certificates[0]).map_err(|error| format!("answer: {error}"))?;
    if leaf.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(key) {
        return Err("answer is for another key".to_owned());
    }
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let not_before = seconds(leaf.validity().not_before.timestamp());
    let not_after = seconds(leaf.validity().not_after.timestamp());
    if not_after <= now {
        return Err("answer has expired already".to_owned());
    }
    let serial = format!("{:0>2x}", leaf.serial);
    // The CA's clock may be ahead of this node's: peers decide by theirs.
    verify(&sent_certificates, &roots, now.max(not_before))?;
    Ok(Issued {
        material: IdentityMaterial {
            identity: identity.clone(),
            chain: sent_certificates,
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots,
            not_after,
            serial,
        },
        not_before,
    })
}

fn verify(
    sent: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    at: u64,
) -> Result<(), String> {
    let mut anchors = RootCertStore::empty();
    for root in roots {
        anchors
            .add(root.clone())
            .map_err(|error| format!("answer's root: {error}"))?;
    }
    let leaf = ParsedCertificate::try_from(&sent[0]).map_err(|error| format!("answer: {error}"))?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, &anchors, &sent[1..], at, algorithms)
        .map_err(|error| format!("answer does not lead to its own root: {error}"))
}

#[cfg(test)]
mod tests;
