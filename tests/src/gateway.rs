//! A gateway in front of a mesh, without a privilege, and clients that speak TLS to it.

use crate::agent::AgentSpec;
use crate::mesh::{Builder, Mesh, PLAIN};
use crate::process::{Proc, built};
use crate::promtext::{self, Sample};
use crate::topology::Pod;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Name of the gateway's pod.
pub const GATEWAY: &str = "gw";
/// Name of a pod outside of the mesh, on the other node.
pub const VISITOR: &str = "visitor";
/// Label of the gateway, as the guides have it.
pub const SELECTOR: (&str, &str) = ("istio", "ingressgateway");

/// A mesh with a gateway.
#[derive(Debug)]
pub struct Edge {
    /// The gateway's process; ends first.
    pub process: Proc,
    /// What is behind it.
    pub mesh: Mesh,
}

impl Edge {
    /// Adds the gateway and a visitor to what `builder` has, and starts everything.
    ///
    /// # Errors
    /// As [`Builder::start`]; the gateway is not ready in 20 s.
    pub fn start(builder: Builder) -> Result<Self> {
        let mut mesh = builder.outsider(1, GATEWAY).outsider(2, VISITOR).ground()?;
        mesh.member(GATEWAY).set_label(SELECTOR.0, SELECTOR.1);
        mesh.apply()?;
        mesh.start_agents()?;
        let process = start(&mesh)?;
        let edge = Self { process, mesh };
        crate::eventually("the gateway to be ready", Duration::from_secs(20), || {
            (edge.status(15021, "/healthz/ready").ok()?.0 == 200).then_some(())
        })?;
        Ok(edge)
    }

    /// The gateway's address with this port, as the visitor dials it.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.mesh.pod(GATEWAY).v4.into(), port)
    }

    /// Writes a file of the config.
    ///
    /// # Errors
    /// As the file system's.
    pub fn write(&self, file: &str, yaml: impl AsRef<[u8]>) -> Result<()> {
        self.mesh
            .config
            .write(file, String::from_utf8_lossy(yaml.as_ref()).into_owned())
    }

    /// Waits until the gateway listens on a port.
    ///
    /// # Errors
    /// Not within 10 s.
    pub fn listens(&self, port: u16) -> Result<()> {
        let visitor = self.mesh.pod(VISITOR);
        crate::eventually("the gateway's port", Duration::from_secs(10), || {
            let opened = visitor.netns.run(|| {
                Ok(std::net::TcpStream::connect_timeout(
                    &self.at(port),
                    Duration::from_secs(1),
                )?)
            });
            opened.ok().map(drop)
        })
    }

    /// A page of the gateway's own.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self, port: u16, path: &str) -> Result<(u16, String)> {
        let gateway = self.mesh.pod(GATEWAY);
        gateway.netns.http_get(self.at(port), path)
    }

    /// Its metrics.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(&self) -> Result<Vec<Sample>> {
        Ok(promtext::parse(&self.status(15020, "/stats/prometheus")?.1))
    }

    /// `heddle ARGS` of the gateway.
    ///
    /// # Errors
    /// It exits with an error, or prints no JSON.
    pub fn heddle_json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let socket = admin_socket(&self.mesh.spec(1)?, GATEWAY);
        let output = Command::new(built("heddle")?)
            .args(args)
            .args(["--output", "json", "--admin-socket"])
            .arg(socket)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "heddle {}: {said}", args.join(" "));
        json(&String::from_utf8_lossy(&output.stdout))
    }

    /// Runs a TLS client in the visitor's namespace.
    ///
    /// # Errors
    /// What `client` says.
    pub fn visit<T: Send>(
        &self,
        visit: &Visit<'_>,
        client: impl FnOnce(Conversation) -> Result<T> + Send,
    ) -> Result<T> {
        visit.from(self.mesh.pod(VISITOR), self.at(visit.port), client)
    }
}

fn start(mesh: &Mesh) -> Result<Proc> {
    let labels = format!("app={GATEWAY},{}={}", SELECTOR.0, SELECTOR.1);
    let spec = mesh.spec(1)?;
    spawn(mesh.pod(GATEWAY), &spec, PLAIN, "istio-ingressgateway", &labels)
}

fn admin_socket(spec: &AgentSpec, name: &str) -> PathBuf {
    spec.state_dir().join(format!("{name}.sock"))
}

/// Starts a gateway in a pod: config and CA are those of the agent that `spec` is of. Without a single capability, as in
/// the chart.
///
/// # Errors
/// It is not built.
pub fn spawn(pod: &Pod, spec: &AgentSpec, namespace: &str, workload: &str, labels: &str) -> Result<Proc> {
    let program = built("mesh-agent")?.display().to_string();
    let mut args = vec![
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        &*program,
    ];
    let own = arguments(spec, (namespace, &pod.name), workload, labels, &pod.ips());
    args.extend(own.iter().map(String::as_str));
    pod.spawn("gateway", Path::new("setpriv"), &args)
}

/// Arguments of the gateway that is this pod, by namespace and name.
#[must_use]
pub fn arguments(
    spec: &AgentSpec,
    (namespace, name): (&str, &str),
    workload: &str,
    labels: &str,
    ips: &[IpAddr],
) -> Vec<String> {
    let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
    let options = [
        ("--config", &*spec.config.display().to_string()),
        ("--ca-dir", &*spec.ca.display().to_string()),
        ("--name", name),
        ("--namespace", namespace),
        ("--service-account", name),
        ("--workload", workload),
        ("--ips", &ips.join(",")),
        ("--labels", labels),
        ("--admin-socket", &*admin_socket(spec, name).display().to_string()),
        ("--drain-delay-seconds", "1"),
        ("--drain-seconds", "5"),
        ("--log-format", "text"),
    ];
    let options = options.into_iter().flat_map(|(key, value)| [key, value]);
    std::iter::once("gateway")
        .chain(options)
        .map(str::to_owned)
        .collect()
}

/// How a client comes.
pub struct Visit<'a> {
    /// The gateway's port.
    pub port: u16,
    /// SNI.
    pub name: &'a str,
    /// Whose certificates it believes.
    pub roots: &'a Authority,
    /// What it shows.
    pub shows: Option<&'a Leaf>,
    /// Whether it offers HTTP/2.
    pub http2: bool,
}

impl Visit<'_> {
    /// Connects from a pod's namespace, and runs `client` there.
    ///
    /// # Errors
    /// No connection within 5 s; what `client` says.
    pub fn from<T: Send>(
        &self,
        pod: &Pod,
        to: SocketAddr,
        client: impl FnOnce(Conversation) -> Result<T> + Send,
    ) -> Result<T> {
        pod.netns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let tls = runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(5), self.connect(to)).await })??;
            client(Conversation { runtime, tls })
        })
    }

    async fn connect(&self, to: SocketAddr) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.roots.certificate.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match self.shows {
            None => builder.with_no_client_auth(),
            Some(leaf) => builder.with_client_auth_cert(vec![leaf.certificate.clone()], leaf.key())?,
        };
        if self.http2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::try_from(self.name.to_owned())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        Ok(connector.connect(name, stream).await?)
    }
}

/// A TLS connection, and a runtime for it.
pub struct Conversation {
    runtime: tokio::runtime::Runtime,
    /// The connection.
    pub tls: tokio_rustls::client::TlsStream<TcpStream>,
}

impl Conversation {
    /// Serial number (DER bytes) of nobody cares which; the whole certificate that the server showed.
    #[must_use]
    pub fn shown(&self) -> Vec<u8> {
        let chain = self.tls.get_ref().1.peer_certificates();
        chain
            .and_then(|c| c.first())
            .map_or_else(Vec::new, |c| c.to_vec())
    }

    /// One `GET` each for these authorities and paths, on this one connection: status and body.
    ///
    /// # Errors
    /// The connection breaks.
    pub fn ask(self, requests: &[(&str, &str)]) -> Result<Vec<(u16, String)>> {
        let Self { runtime, tls } = self;
        let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let mut answers = Vec::new();
            let io = TokioIo::new(tls);
            if http2 {
                let (mut sender, conn) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                tokio::task::spawn_local(async move { drop(conn.await) });
                for (host, path) in requests {
                    let request = Request::get(format!("https://{host}{path}")).body(Empty::<Bytes>::new())?;
                    answers.push(read(sender.send_request(request).await?).await?);
                }
            } else {
                let (mut sender, conn) = hyper::client::conn::http1::handshake(io).await?;
                tokio::task::spawn_local(async move { drop(conn.await) });
                for (host, path) in requests {
                    let request = Request::get(*path)
                        .header("host", *host)
                        .body(Empty::<Bytes>::new())?;
                    answers.push(read(sender.send_request(request).await?).await?);
                }
            }
            Ok(answers)
        })
    }
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<(u16, String)> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A CA of a test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub certificate: CertificateDer<'static>,
    /// As PEM.
    pub pem: String,
}

/// A certificate and its key.
pub struct Leaf {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// As PEM.
    pub pem: String,
    key: KeyPair,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// As rcgen's.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        // Two of one name would be one to clients that look an issuer up by it.
        let own: String = key
            .public_key_raw()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        params.distinguished_name = named(&format!("CA {}", &own[..16.min(own.len())]));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// A certificate for a name.
    ///
    /// # Errors
    /// As rcgen's.
    pub fn sign(&self, name: &str) -> Result<Leaf> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = named(name);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key,
        })
    }
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

impl Leaf {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// A Secret of type `kubernetes.io/tls` beside the gateway, perhaps with the CA of clients.
    ///
    /// # Errors
    /// None but the formatting of text.
    pub fn secret(&self, name: &str, ca: Option<&Authority>) -> Result<String> {
        self.secret_in(PLAIN, name, ca)
    }

    /// As [`Leaf::secret`], in this namespace.
    ///
    /// # Errors
    /// As there.
    pub fn secret_in(&self, namespace: &str, name: &str, ca: Option<&Authority>) -> Result<String> {
        let block = |pem: &str| {
            pem.lines()
                .map(|line| format!("    {line}\n"))
                .collect::<String>()
        };
        let mut text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: {namespace}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            block(&self.pem),
            block(&self.key.serialize_pem())
        );
        if let Some(ca) = ca {
            text += &format!("  ca.crt: |\n{}", block(&ca.pem));
        }
        Ok(text + "---\n")
    }
}

/// `serde_json` of an answer's body.
///
/// # Errors
/// It is none.
pub fn json(body: &str) -> Result<serde_json::Value> {
    serde_json::from_str(body).with_context(|| format!("no JSON: {body}"))
}
