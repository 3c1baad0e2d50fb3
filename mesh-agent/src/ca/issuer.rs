//! The built-in CA: a root in a directory, P-256 unless the user brings one, shared by every agent that is given that directory.
//!
//! `ca.key` holds the signing key (PEM; EC, RSA or Ed25519 in any of the usual forms), `ca.crt` its certificate, those
//! above it up to the root, and any other roots to trust: during a rotation both the old and the new one are listed.
//! Both files are read again for each certificate.

use super::{CertificateAuthority, Issued};
use crate::tls::IdentityMaterial;
use crate::tls::config::provider;
use mesh_core::model::identity::SpiffeId;
use nix::fcntl::{Flock, FlockArg};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Clock difference between nodes that a fresh certificate tolerates.
const BACKDATE: u64 = 120;
/// Longest chain that is sent: peers look at no more (ztunnel: 6).
const MAX_INTERMEDIATES: usize = 6;
/// Life of the root: ten years.
const ROOT_LIFE: u64 = 10 * 365 * 24 * 3600;

/// Why the CA gives no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of the CA cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the CA does not hold what it should.
    #[error("{path}: {reason}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate cannot be made.
    #[error("cannot sign for {identity}: {reason}")]
    Sign {
        /// For whom.
        identity: SpiffeId,
        /// Why.
        reason: String,
    },
    /// A CA elsewhere refused or cannot be reached.
    #[error("{0}")]
    Remote(String),
}

/// Signs with the key in a directory.
#[derive(Debug)]
pub struct Issuer {
    dir: PathBuf,
    ttl: Duration,
}

impl Issuer {
    /// Opens the CA in `dir`, creating directory and root if there is none. Of several processes that start at once
    /// one creates it and all use that one. `ttl` is the life of what it signs.
    ///
    /// # Errors
    /// Files cannot be read or written, or there is a certificate without its key.
    pub fn open(dir: &Path, trust_domain: &str, ttl: Duration) -> Result<Self, CaError> {
        let issuer = Self {
            dir: dir.to_owned(),
            ttl,
        };
        fs::create_dir_all(dir).map_err(|source| file(dir, source))?;
        // A lock of the kernel's, not a file's existence: a creator that dies leaves nothing behind.
        let path = dir.join("ca.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| file(&path, source))?;
        let _locked = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| file(&path, io::Error::from(errno)))?;
        // The certificate is written last: with it, the pair is complete.
        if !issuer.crt().exists() {
            issuer.create(trust_domain)?;
        }
        issuer.load()?;
        Ok(issuer)
    }

    fn key(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    fn crt(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    fn create(&self, trust_domain: &str) -> Result<(), CaError> {
        let failed = |error: rcgen::Error| content(&self.dir, error.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, trust_domain);
        params.distinguished_name.push(DnType::CommonName, "Heddle root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial().ok_or_else(|| content(&self.dir, "no randomness".to_owned()))?);
        let now = super::system_clock()();
        let dates = (moment(now - BACKDATE), moment(now + ROOT_LIFE));
        let (Some(not_before), Some(not_after)) = dates else {
            return Err(content(&self.dir, "the system clock is out of range".to_owned()));
        };
        (params.not_before, params.not_after) = (not_before, not_after);
        let certificate = params.self_signed(&key).map_err(failed)?;
        replace(&self.key(), key.serialize_pem().as_bytes(), 0o600)?;
        replace(&self.crt(), certificate.pem().as_bytes(), 0o644)
    }

    /// Reads key and roots; the signing certificate is the one of the key.
    fn load(&self) -> Result<Loaded, CaError> {
        let (key_path, crt_path) = (self.key(), self.crt());
        let pem = fs::read(&key_path).map_err(|source| file(&key_path, source))?;
        // Not `KeyPair::from_pem`: openssl writes curve parameters in front of an EC key.
        let key =
            PrivateKeyDer::from_pem_slice(&pem).map_err(|error| content(&key_path, error.to_string()))?;
        let key = KeyPair::try_from(&key).map_err(|error| content(&key_path, error.to_string()))?;
        let pem = fs::read(&crt_path).map_err(|source| file(&crt_path, source))?;
        let roots = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| content(&crt_path, error.to_string()))?;
        let parsed = roots
            .iter()
            .map(|root| X509Certificate::from_der(root).map(|(_, parsed)| parsed))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| content(&crt_path, error.to_string()))?;
        let public = key.subject_public_key_info();
        let Some(signing) = parsed.iter().position(|one| one.public_key().raw == public) else {
            let reason = format!("none of its {} certificates is that of ca.key", roots.len());
            return Err(content(&crt_path, reason));
        };
        Ok(Loaded {
            signer: rcgen::Issuer::from_ca_cert_der(&roots[signing], key)
                .map_err(|error| content(&crt_path, error.to_string()))?,
            chain: intermediates(&parsed, signing)
                .map(|index| roots[index].clone())
                .collect(),
            not_after: u64::try_from(parsed[signing].validity().not_after.timestamp()).unwrap_or(0),
            roots: roots.clone(),
        })
    }
}

/// From the signing certificate upwards, without the self-signed end: what a peer needs that trusts only that.
fn intermediates(all: &[X509Certificate<'_>], signing: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(signing), |&at| {
        all.iter().position(|one| one.subject() == all[at].issuer())
    })
    .take_while(|&at| all[at].subject() != all[at].issuer())
    .take(MAX_INTERMEDIATES)
}

struct Loaded {
    signer: rcgen::Issuer<'static, KeyPair>,
    /// Sent behind the leaf: the signing certificate where it is an intermediate one, and those above it.
    chain: Vec<CertificateDer<'static>>,
    not_after: u64,
    roots: Vec<CertificateDer<'static>>,
}

impl CertificateAuthority for Issuer {
    fn issue(&self, identity: &SpiffeId, now: u64) -> Result<Issued, CaError> {
        let refused = |reason: String| CaError::Sign {
            identity: identity.clone(),
            reason,
        };
        let failed = |error: rcgen::Error| refused(error.to_string());
        let Loaded {
            signer,
            mut chain,
            not_after: end,
            roots,
        } = self.load()?;
        if end <= now {
            return Err(refused("the CA's own certificate has expired".to_owned()));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let not_before = now.saturating_sub(BACKDATE);
        let not_after = now.saturating_add(self.ttl.as_secs()).min(end);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().map_err(failed)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let (Some(from), Some(to), Some(serial)) = (moment(not_before), moment(not_after), serial()) else {
            return Err(refused("no time or no randomness".to_owned()));
        };
        (params.not_before, params.not_after) = (from, to);
        let serial_text = serial.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        params.serial_number = Some(serial);
        let leaf = params.signed_by(&key, &signer).map_err(failed)?;
        chain.insert(0, leaf.der().clone());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let material = IdentityMaterial {
            identity: identity.clone(),
            chain,
            key,
            roots,
            not_after,
            serial: serial_text,
        };
        Ok(Issued { material, not_before })
    }
}

fn file(path: &Path, source: io::Error) -> CaError {
    CaError::File {
        path: path.to_owned(),
        source,
    }
}

fn content(path: &Path, reason: String) -> CaError {
    CaError::Content {
        path: path.to_owned(),
        reason,
    }
}

fn moment(seconds: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

/// 127 random bits: positive in DER, and far beyond what could repeat.
fn serial() -> Option<SerialNumber> {
    let mut bytes = [0; 16];
    provider().secure_random.fill(&mut bytes).ok()?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Some(SerialNumber::from_slice(&bytes))
}

/// Writes a file as a whole: whoever reads it sees nothing or everything, also after a crash.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CaError> {
    let draft = path.with_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| file(path, source))
}
