//! The built-in CA: a root in a directory, P-256 unless the user brings one, shared by every agent that is given that directory.
//!
//! `ca.key` holds the signing key (PEM; EC, RSA or Ed25519 in any of the usual forms), `ca.crt` its certificate, those
//! above it up to the root, and any other roots to trust: during a rotation both the old and the new one are listed.
//! Both files are read again for each certificate.

use super::signer::{self, SignerError};
use super::{CaError, CertificateAuthority, Issued, Issuing, Signer};
use crate::tls::IdentityMaterial;
use mesh_core::model::identity::SpiffeId;
use nix::fcntl::{Flock, FlockArg};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
        let root = signer::new_root(trust_domain, super::system_clock()())
            .map_err(|error| content(&self.dir, error.to_string()))?;
        replace(&self.key(), root.key_pem.as_bytes(), 0o600)?;
        replace(&self.crt(), root.certificate_pem.as_bytes(), 0o644)
    }

    /// Reads key and roots; the signing certificate is the one of the key.
    fn load(&self) -> Result<(Signer, Vec<CertificateDer<'static>>), CaError> {
        let (key_path, crt_path) = (self.key(), self.crt());
        let key = fs::read(&key_path).map_err(|source| file(&key_path, source))?;
        let crt = fs::read(&crt_path).map_err(|source| file(&crt_path, source))?;
        let roots = signer::certificates(&crt).map_err(|error| content(&crt_path, error.to_string()))?;
        let signer = Signer::new(&key, &roots).map_err(|error| match error {
            SignerError::Key(reason) => content(&key_path, reason),
            other => content(&crt_path, format!("{other} (ca.key)")),
        })?;
        Ok((signer, roots))
    }

    fn sign(&self, identity: &SpiffeId, now: u64) -> Result<Issued, CaError> {
        let (signer, roots) = self.load()?;
        let refused = |error: SignerError| CaError::Sign {
            identity: identity.clone(),
            reason: error.to_string(),
        };
        let key = signer::leaf_key().map_err(refused)?;
        let leaf = signer
            .workload(identity, &key, now, self.ttl.as_secs())
            .map_err(refused)?;
        let mut chain = vec![leaf.certificate];
        chain.extend_from_slice(signer.chain());
        let material = IdentityMaterial {
            identity: identity.clone(),
            chain,
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots,
            not_after: leaf.not_after,
            serial: leaf.serial,
        };
        Ok(Issued {
            material,
            not_before: leaf.not_before,
        })
    }
}

impl CertificateAuthority for Issuer {
    fn issue<'a>(&'a self, identity: &'a SpiffeId, now: u64) -> Issuing<'a> {
        Box::pin(std::future::ready(self.sign(identity, now)))
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
