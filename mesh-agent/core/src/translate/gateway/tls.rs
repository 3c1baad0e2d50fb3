//! `tls` of a server.

use super::raw;
use crate::model::gateway::{CipherSuite, ListenerProtocol, TlsMode, TlsVersion};
use crate::translate::value::{FieldError, is_subdomain};
use base64::Engine as _;
use std::path::PathBuf;
use std::sync::Arc;

/// TLS settings as they are written: what they refer to is looked up by the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsSpec {
    /// `mode`.
    pub mode: TlsMode,
    /// `credentialName`, `credentialNames`, `tlsCertificates`, or certificate and key.
    pub certificates: Vec<CertificateRef>,
    /// Whose clients' certificates are taken.
    pub authorities: Option<AuthorityRef>,
    /// `caCrl`.
    pub revoked: Option<PathBuf>,
    /// `subjectAltNames`.
    pub names: Vec<Arc<str>>,
    /// `verifyCertificateSpki`, decoded.
    pub spki_hashes: Vec<[u8; 32]>,
    /// `verifyCertificateHash`, decoded.
    pub hashes: Vec<[u8; 32]>,
    /// `insecureSkipVerify`.
    pub skip_verify: bool,
    /// `minProtocolVersion`.
    pub min: TlsVersion,
    /// `maxProtocolVersion`.
    pub max: TlsVersion,
    /// `cipherSuites`.
    pub cipher_suites: Vec<CipherSuite>,
    /// Whether HTTP is inside.
    pub http: bool,
}

/// Where a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateRef {
    /// A Secret in the namespace of the gateway's pod.
    Secret(Arc<str>),
    /// Files of the pod.
    Files {
        /// `serverCertificate`.
        certificate: PathBuf,
        /// `privateKey`.
        key: PathBuf,
    },
}

/// Where CAs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityRef {
    /// Those of `credentialName`: Secret `<name>-cacert`, else the same Secret.
    OfCredential(Arc<str>),
    /// `caCertCredentialName`: a Secret or ConfigMap.
    Named(Arc<str>),
    /// `caCertificates`: a file.
    File(PathBuf),
}

pub(super) fn server_tls(
    at: &str,
    mut raw: raw::Tls,
    http: bool,
) -> Result<(ListenerProtocol, Option<ServerTlsSpec>), FieldError> {
    let mode = match raw.mode.take().as_deref() {
        None | Some("PASSTHROUGH") => return passthrough(at, &raw, ListenerProtocol::TlsPassthrough),
        Some("AUTO_PASSTHROUGH") => return passthrough(at, &raw, ListenerProtocol::TlsAutoPassthrough),
        Some("SIMPLE") => TlsMode::Simple,
        Some("MUTUAL") => TlsMode::Mutual,
        Some("OPTIONAL_MUTUAL") => TlsMode::OptionalMutual,
        Some("ISTIO_MUTUAL") => TlsMode::IstioMutual,
        Some(other) => {
            return Err(FieldError::new(
                format!("{at}.mode"),
                format!(
                    "{other:?} is not known: expected PASSTHROUGH, SIMPLE, MUTUAL, AUTO_PASSTHROUGH, ISTIO_MUTUAL or OPTIONAL_MUTUAL"
                ),
            ));
        }
    };
    let spec = terminating(at, raw, mode, http)?;
    let protocol = if http {
        ListenerProtocol::Https
    } else {
        ListenerProtocol::TlsTerminate
    };
    Ok((protocol, Some(spec)))
}

/// What is not terminated has no use for certificates.
fn passthrough(
    at: &str,
    raw: &raw::Tls,
    protocol: ListenerProtocol,
) -> Result<(ListenerProtocol, Option<ServerTlsSpec>), FieldError> {
    if raw.only_redirects() {
        return Ok((protocol, None));
    }
    let reason = "PASSTHROUGH, the mode where none is written, does not terminate TLS: certificates, versions and verification have no effect";
    Err(FieldError::new(at, reason))
}

fn terminating(at: &str, raw: raw::Tls, mode: TlsMode, http: bool) -> Result<ServerTlsSpec, FieldError> {
    let field = |name: &str| format!("{at}.{name}");
    let credential = raw.credential_name.clone().filter(|name| !name.is_empty());
    let certificates = certificates(at, &raw)?;
    if mode == TlsMode::IstioMutual {
        if !certificates.is_empty() || raw.ca_certificates.is_some() || raw.ca_cert_credential_name.is_some()
        {
            return Err(FieldError::new(
                at,
                "ISTIO_MUTUAL TLS cannot have associated certificates: they are the mesh's",
            ));
        }
    } else if certificates.is_empty() {
        return Err(FieldError::new(
            field("credentialName"),
            "is missing: SIMPLE and MUTUAL TLS require credentialName, or serverCertificate and privateKey",
        ));
    }
    let asks = matches!(mode, TlsMode::Mutual | TlsMode::OptionalMutual);
    let authorities = match (raw.ca_cert_credential_name, raw.ca_certificates, credential) {
        (Some(name), None, _) => {
            check_name(&field("caCertCredentialName"), &name)?;
            Some(AuthorityRef::Named(name.into()))
        }
        (None, Some(path), _) => Some(AuthorityRef::File(file(&field("caCertificates"), &path)?)),
        (None, None, Some(name)) => Some(AuthorityRef::OfCredential(name.into())),
        (None, None, None) => None,
        (Some(_), Some(_), _) => {
            return Err(FieldError::new(
                field("caCertCredentialName"),
                "only one of caCertificates and caCertCredentialName may be set",
            ));
        }
    };
    if asks && authorities.is_none() {
        return Err(FieldError::new(
            field("caCertificates"),
            "is missing: MUTUAL TLS requires caCertificates, caCertCredentialName or credentialName",
        ));
    }
    let names = raw.subject_alt_names.unwrap_or_default();
    let spki = raw.verify_certificate_spki.unwrap_or_default();
    let hashes = raw.verify_certificate_hash.unwrap_or_default();
    let skip_verify = raw.insecure_skip_verify.unwrap_or(false);
    let about_clients = [
        ("subjectAltNames", !names.is_empty()),
        ("verifyCertificateSpki", !spki.is_empty()),
        ("verifyCertificateHash", !hashes.is_empty()),
        ("insecureSkipVerify", skip_verify),
        ("caCrl", raw.ca_crl.is_some()),
    ];
    if let Some((name, _)) = about_clients.iter().find(|(_, set)| *set && !asks) {
        return Err(FieldError::new(
            field(name),
            "requires mode MUTUAL or OPTIONAL_MUTUAL",
        ));
    }
    let revoked = raw.ca_crl.map(|path| file(&field("caCrl"), &path)).transpose()?;
    let (min, max) = versions(at, raw.min_protocol_version, raw.max_protocol_version)?;
    Ok(ServerTlsSpec {
        mode,
        certificates,
        authorities: authorities.filter(|_| asks),
        revoked,
        names: names.into_iter().map(Into::into).collect(),
        spki_hashes: each(&field("verifyCertificateSpki"), &spki, spki_hash)?,
        hashes: each(&field("verifyCertificateHash"), &hashes, certificate_hash)?,
        skip_verify,
        min,
        max,
        cipher_suites: each(
            &field("cipherSuites"),
            &raw.cipher_suites.unwrap_or_default(),
            cipher_suite,
        )?,
        http,
    })
}

/// Exactly one of the four ways to name certificates.
fn certificates(at: &str, raw: &raw::Tls) -> Result<Vec<CertificateRef>, FieldError> {
    let field = |name: &str| format!("{at}.{name}");
    let files = |at: &str, certificate: &Option<String>, key: &Option<String>| match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(CertificateRef::Files {
            certificate: file(&format!("{at}.serverCertificate"), certificate)?,
            key: file(&format!("{at}.privateKey"), key)?,
        })),
        (Some(_), None) => Err(FieldError::new(format!("{at}.privateKey"), "is missing")),
        (None, Some(_)) => Err(FieldError::new(format!("{at}.serverCertificate"), "is missing")),
    };
    let own = files(at, &raw.server_certificate, &raw.private_key)?;
    let mut listed = Vec::new();
    for (i, entry) in raw.tls_certificates.iter().flatten().enumerate() {
        let at = format!("{at}.tlsCertificates[{i}]");
        let pair = files(&at, &entry.server_certificate, &entry.private_key)?;
        listed.push(pair.ok_or_else(|| FieldError::new(at, "is empty"))?);
    }
    let mut secrets = Vec::new();
    if let Some(name) = raw.credential_name.iter().find(|name| !name.is_empty()) {
        check_name(&field("credentialName"), name)?;
        secrets.push(CertificateRef::Secret(name.as_str().into()));
    }
    let mut named = Vec::new();
    for (i, name) in raw.credential_names.iter().flatten().enumerate() {
        check_name(&format!("{at}.credentialNames[{i}]"), name)?;
        named.push(CertificateRef::Secret(name.as_str().into()));
    }
    let ways = [secrets, named, listed, own.into_iter().collect()];
    if ways.iter().filter(|way| !way.is_empty()).count() > 1 {
        return Err(FieldError::new(
            at,
            "only one of serverCertificate and privateKey, credentialName, credentialNames and tlsCertificates should be specified",
        ));
    }
    Ok(ways.into_iter().flatten().collect())
}

fn check_name(at: &str, name: &str) -> Result<(), FieldError> {
    if is_subdomain(name) {
        return Ok(());
    }
    let reason = if name.contains("://") {
        "is no name of a Secret: providers are not supported"
    } else if name.contains('/') {
        "names another namespace: a Secret is looked for in the namespace of the gateway's pod"
    } else {
        "is no name of a Secret"
    };
    Err(FieldError::new(at, reason))
}

fn file(at: &str, path: &str) -> Result<PathBuf, FieldError> {
    if path.starts_with('/') && !path.contains('\0') && path.len() <= 4_096 {
        Ok(path.into())
    } else {
        Err(FieldError::new(at, "is no absolute path"))
    }
}

fn versions(
    at: &str,
    min: Option<String>,
    max: Option<String>,
) -> Result<(TlsVersion, TlsVersion), FieldError> {
    let read = |name: &str, text: Option<String>, auto: TlsVersion| match text.as_deref() {
        None | Some("TLS_AUTO") => Ok(auto),
        Some("TLSV1_2") => Ok(TlsVersion::V12),
        Some("TLSV1_3") => Ok(TlsVersion::V13),
        Some(old @ ("TLSV1_0" | "TLSV1_1")) => Err(FieldError::new(
            format!("{at}.{name}"),
            format!("{old} is not supported: RFC 8996 forbids it"),
        )),
        Some(other) => Err(FieldError::new(
            format!("{at}.{name}"),
            format!("{other:?} is not known: expected TLS_AUTO, TLSV1_2 or TLSV1_3"),
        )),
    };
    let min = read("minProtocolVersion", min, TlsVersion::V12)?;
    let max = read("maxProtocolVersion", max, TlsVersion::V13)?;
    if min > max {
        return Err(FieldError::new(
            format!("{at}.minProtocolVersion"),
            "is higher than maxProtocolVersion",
        ));
    }
    Ok((min, max))
}

fn each<T>(
    at: &str,
    given: &[String],
    read: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, FieldError> {
    let one = |(i, text): (usize, &String)| {
        read(text).map_err(|reason| FieldError::new(format!("{at}[{i}]"), reason))
    };
    given.iter().enumerate().map(one).collect()
}

fn spki_hash(text: &str) -> Result<[u8; 32], &'static str> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok();
    bytes
        .and_then(|b| b.try_into().ok())
        .ok_or("is no SHA-256 in base64")
}

/// With or without colons.
fn certificate_hash(text: &str) -> Result<[u8; 32], &'static str> {
    const WRONG: &str = "is no SHA-256 in hexadecimal";
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b':').collect();
    if digits.len() != 64 {
        return Err(WRONG);
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| pair.get(at).and_then(|c| char::from(*c).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(WRONG);
        };
        *byte = u8::try_from(high << 4 | low).map_err(|_| WRONG)?;
    }
    Ok(hash)
}

fn cipher_suite(name: &str) -> Result<CipherSuite, &'static str> {
    Ok(match name {
        "ECDHE-ECDSA-AES128-GCM-SHA256" => CipherSuite::EcdheEcdsaAes128Gcm,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => CipherSuite::EcdheEcdsaAes256Gcm,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => CipherSuite::EcdheEcdsaChacha20,
        "ECDHE-RSA-AES128-GCM-SHA256" => CipherSuite::EcdheRsaAes128Gcm,
        "ECDHE-RSA-AES256-GCM-SHA384" => CipherSuite::EcdheRsaAes256Gcm,
        "ECDHE-RSA-CHACHA20-POLY1305" => CipherSuite::EcdheRsaChacha20,
        _ => return Err("is not supported: only ECDHE suites with AES-GCM or ChaCha20-Poly1305 are"),
    })
}
