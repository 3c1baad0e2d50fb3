//! A peer that speaks HBONE by hand: TLS 1.3 with a certificate made from the mesh's CA (or without one), HTTP/2, one
//! request, and a line of payload each way.

use crate::say;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Uri};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    to: SocketAddr,
    /// Folder of the CA that signs the client's certificate; without it there is none.
    #[arg(long)]
    ca_dir: Option<PathBuf>,
    /// Makes the CA first.
    #[arg(long, requires = "ca_dir")]
    make_ca: bool,
    /// URI in the certificate.
    #[arg(long, default_value = "spiffe://cluster.local/ns/shop/sa/client")]
    identity: String,
    #[arg(long, default_value = "CONNECT")]
    method: Method,
    /// What CONNECT asks for.
    #[arg(long)]
    authority: Option<String>,
    /// A line to send into the tunnel.
    #[arg(long, default_value = "hello")]
    send: String,
    /// Sends an HTTP/2 PING and waits for its answer first.
    #[arg(long)]
    ping: bool,
}

/// Takes any server: tests look at what the server does.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let start = Instant::now();
    let mut report = json!({"ok": false, "stage": "connect"});
    let result = runtime.block_on(async {
        let talk = talk(options, &mut report);
        tokio::time::timeout(Duration::from_secs(15), talk)
            .await
            .context("timeout")?
    });
    match result {
        Ok(()) => report["ok"] = json!(true),
        Err(error) => report["error"] = json!(format!("{error:#}")),
    }
    report["elapsed_ms"] = json!(start.elapsed().as_secs_f64() * 1e3);
    say(&report);
    Ok(())
}

async fn talk(options: &Options, report: &mut Value) -> Result<()> {
    let tcp = TcpStream::connect(options.to).await.context("connect")?;
    report["stage"] = json!("handshake");
    let tls = handshake(options, tcp).await.context("handshake")?;
    let alpn = tls
        .get_ref()
        .1
        .alpn_protocol()
        .map(|p| String::from_utf8_lossy(p).into_owned());
    report["alpn"] = json!(alpn);
    // In TLS 1.3 a server refuses the client's certificate after the client's handshake has ended.
    report["stage"] = json!("http2");
    let (client, mut connection) = h2::client::handshake(tls).await.context("http2")?;
    let pings = connection.ping_pong();
    tokio::spawn(connection);
    if options.ping {
        let mut pings = pings.context("no ping handle")?;
        pings.ping(h2::Ping::opaque()).await.context("ping")?;
        report["pong"] = json!(true);
    }
    report["stage"] = json!("request");
    let authority = options.authority.clone().unwrap_or_default();
    let uri: Uri = if options.method == Method::CONNECT {
        authority.parse()?
    } else {
        format!("http://{authority}/").parse()?
    };
    let request = Request::builder()
        .method(options.method.clone())
        .uri(uri)
        .body(())?;
    let (response, mut send) = client
        .ready()
        .await
        .context("ready")?
        .send_request(request, false)?;
    let response = response.await.context("response")?;
    report["status"] = json!(response.status().as_u16());
    report["baggage"] = json!(
        response
            .headers()
            .get("baggage")
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
    );
    report["stage"] = json!("payload");
    if !response.status().is_success() {
        return Ok(());
    }
    send.send_data(Bytes::from(format!("{}\n", options.send)), true)?;
    let mut body = response.into_body();
    let mut reply = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.context("payload")?;
        body.flow_control().release_capacity(data.len())?;
        reply.extend_from_slice(&data);
    }
    report["reply"] = json!(String::from_utf8_lossy(&reply));
    Ok(())
}

async fn handshake(options: &Options, tcp: TcpStream) -> Result<TlsStream<TcpStream>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match &options.ca_dir {
        None => builder.with_no_client_auth(),
        Some(dir) => {
            if options.make_ca {
                make_ca(dir)?;
            }
            let (chain, key) = certificate(dir, &options.identity)?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    let name = ServerName::IpAddress(options.to.ip().into());
    Ok(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?)
}

type Signed = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn make_ca(dir: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(dir.join("ca.crt"), params.self_signed(&key)?.pem())?;
    Ok(std::fs::write(dir.join("ca.key"), key.serialize_pem())?)
}

fn certificate(dir: &Path, identity: &str) -> Result<Signed> {
    let signer = KeyPair::from_pem(&std::fs::read_to_string(dir.join("ca.key"))?)?;
    let root = std::fs::read_to_string(dir.join("ca.crt"))?;
    let issuer = rcgen::Issuer::from_ca_cert_pem(&root, signer)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let leaf = params.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((vec![leaf.der().clone()], key))
}
