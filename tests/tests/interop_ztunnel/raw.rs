//! A client that shows any certificate and says anything, to put the same question to both servers.

use anyhow::{Context, Result};
use http::{Method, Request, Uri, Version};
use mesh_tests::netns::Netns;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Who asks.
pub(crate) enum Shown<'a> {
    /// A certificate with these URI SANs.
    Uris(&'a [&'a str]),
    /// None.
    Nothing,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Status(u16),
    /// The connection or the stream failed instead.
    Failed,
}

/// Asker with the test CA.
pub(crate) struct Raw {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) version: &'static rustls::SupportedProtocolVersion,
}

impl Raw {
    pub(crate) fn new(ca_key: &Path, ca_cert: &Path) -> Result<Self> {
        let key = KeyPair::from_pem(&std::fs::read_to_string(ca_key)?)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&std::fs::read_to_string(ca_cert)?, key)?,
            alpn: vec![b"h2".to_vec()],
            version: &rustls::version::TLS13,
        })
    }

    fn config(&self, shown: &Shown<'_>) -> Result<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[self.version])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
        let mut config = match shown {
            Shown::Nothing => builder.with_no_client_auth(),
            Shown::Uris(uris) => {
                let mut params = CertificateParams::default();
                for uri in *uris {
                    params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
                }
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                let key = KeyPair::generate()?;
                let leaf = params.signed_by(&key, &self.issuer)?;
                let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
                builder.with_client_auth_cert(vec![leaf.der().clone()], key)?
            }
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = false;
        Ok(config)
    }

    /// Asks port 15008 of `server`, from inside `netns`. The second value is what the server allows a connection in
    /// parallel streams.
    pub(crate) fn ask(
        &self,
        netns: &Netns,
        server: IpAddr,
        shown: &Shown<'_>,
        method: &Method,
        uri: &str,
    ) -> Result<(Answer, usize)> {
        let config = self.config(shown)?;
        let mut uri = uri.parse::<Uri>().with_context(|| uri.to_owned())?.into_parts();
        if method != Method::CONNECT {
            uri.scheme = Some(http::uri::Scheme::HTTPS);
            uri.path_and_query = Some("/".parse()?);
        }
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(uri)?;
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        netns.run(|| {
            let asking = exchange(config, SocketAddr::new(server, 15008), request);
            let limited = async { tokio::time::timeout(Duration::from_secs(20), asking).await };
            let answer = runtime()?.block_on(limited).context("no answer in 20 s")?;
            Ok(answer.unwrap_or((Answer::Failed, 0)))
        })
    }
}

async fn exchange(config: ClientConfig, server: SocketAddr, request: Request<()>) -> Result<(Answer, usize)> {
    let tcp = TcpStream::connect(server).await?;
    let name = ServerName::IpAddress(server.ip().into());
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let (send, connection) = h2::client::handshake(tls).await?;
    tokio::spawn(connection);
    let mut send = send.ready().await?;
    let (response, _stream) = send.send_request(request, false)?;
    let status = response.await?.status().as_u16();
    Ok((Answer::Status(status), send.current_max_send_streams()))
}

/// `count` GETs with prior knowledge of HTTP/2 on a connection that stands: their statuses.
pub(crate) fn http2(stream: std::net::TcpStream, uri: &str, count: usize) -> Result<Vec<u16>> {
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (send, connection) = h2::client::handshake(TcpStream::from_std(stream)?).await?;
        tokio::spawn(connection);
        let mut statuses = Vec::new();
        for _ in 0..count {
            let request = Request::builder().uri(uri).version(Version::HTTP_2).body(())?;
            let (response, _) = send.clone().ready().await?.send_request(request, true)?;
            statuses.push(response.await?.status().as_u16());
        }
        Ok(statuses)
    })
}

/// Takes any server: what is asked is how the server takes us.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
