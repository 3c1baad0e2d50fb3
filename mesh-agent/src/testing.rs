//! What the unit tests of several modules share: a CA in memory that also signs wrong certificates.

use crate::contract::{CertificateError, Certificates, IdentityTls};
use crate::tls::{IdentityMaterial, identity_tls};
use mesh_core::model::ObjectName;
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::workload::{Enrollment, FailMode, Names, Workload};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConnection, ServerConnection};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use time::{Duration, OffsetDateTime};

pub(crate) const ALICE: &str = "spiffe://cluster.local/ns/weather/sa/frontend";
pub(crate) const BOB: &str = "spiffe://cluster.local/ns/weather/sa/forecast";

pub(crate) fn id(uri: &str) -> SpiffeId {
    SpiffeId::parse(uri).unwrap()
}

pub(crate) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::OrganizationName, "test");
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    /// A leaf with exactly these URI SANs, changed by `change`.
    pub(crate) fn material(
        &self,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> IdentityMaterial {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).to_owned().try_into().unwrap()))
            .collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::minutes(2);
        params.not_after = now + Duration::hours(1);
        change(&mut params);
        let not_after = u64::try_from(params.not_after.unix_timestamp()).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        IdentityMaterial {
            identity: uris
                .first()
                .and_then(|uri| SpiffeId::parse(uri).ok())
                .unwrap_or_else(|| id(ALICE)),
            chain: vec![leaf.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots: vec![self.root.clone()],
            not_after,
            serial: "01".to_owned(),
        }
    }

    pub(crate) fn tls(&self, uri: &str) -> Arc<IdentityTls> {
        Arc::new(identity_tls(self.material(&[uri], |_| ())).unwrap())
    }
}

/// An address where connections are refused for as long as the socket lives: nobody else gets its port.
pub(crate) fn refusing() -> (tokio::net::TcpSocket, std::net::SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A handshake that both ends of a connection agree to, without a network; what the server has of it.
pub(crate) fn handshake(client: &IdentityTls, server: &IdentityTls) -> ServerConnection {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut client = ClientConnection::new(Arc::clone(&client.client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(&server.server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    server
}

/// Gives the same certificate to everyone.
pub(crate) struct Fixed(pub(crate) Arc<IdentityTls>);

impl Certificates for Fixed {
    fn tls(&self, _identity: &SpiffeId) -> Result<Arc<IdentityTls>, CertificateError> {
        Ok(Arc::clone(&self.0))
    }
}

/// Has no certificate for anyone.
pub(crate) struct Empty;

impl Certificates for Empty {
    fn tls(&self, identity: &SpiffeId) -> Result<Arc<IdentityTls>, CertificateError> {
        Err(CertificateError::Expired(identity.clone()))
    }
}

/// A directory that goes away with its owner.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "heddle-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An enrolled pod of node `n1`, without addresses and network namespace.
pub(crate) fn workload(namespace: &str, name: &str, uid: &str) -> Workload {
    let text = Arc::<str>::from(name);
    Workload {
        id: 1,
        pod: ObjectName::new(namespace, name),
        uid: uid.into(),
        node: "n1".into(),
        ips: Vec::new(),
        labels: Arc::default(),
        identity: id(ALICE),
        names: Arc::new(Names {
            workload: Arc::clone(&text),
            kind: "pod".into(),
            app: Arc::clone(&text),
            version: "unknown".into(),
            canonical_service: text,
            canonical_revision: "latest".into(),
        }),
        enrollment: Enrollment::Enrolled,
        ready: true,
        netns: None,
        probe_ports: Vec::new(),
        fail_mode: FailMode::Closed,
        resolves_itself: false,
    }
}
