//! The Secrets and ConfigMaps that servers name.

use crate::model::ObjectName;
use crate::model::gateway::{
    AUTHORITY_KEYS, CERTIFICATE_KEYS, ClientCertificates, Credential, CredentialSource, REVOCATION_KEYS,
    ServerTls, authorities_of,
};
use crate::state::tables::Tables;
use crate::translate::{AuthorityRef, CertificateRef, MaterialSpec, ServerTlsSpec};
use std::sync::Arc;

/// The settings with everything they refer to, or with the reason why something is not there. Secrets are looked for in
/// the namespace of the gateway's pod.
pub(super) fn server_tls(tables: &Tables, namespace: &Arc<str>, spec: &ServerTlsSpec) -> ServerTls {
    let mut broken = None;
    let mut note = |reason: String| {
        broken.get_or_insert_with(|| Arc::from(reason));
    };
    let mut certificates = Vec::new();
    for wanted in &spec.certificates {
        match certificate(tables, namespace, wanted) {
            Ok(found) => certificates.push(found),
            Err(reason) => note(reason),
        }
    }
    let mut authorities = None;
    let mut revoked = spec.revoked.clone().map(CredentialSource::File);
    match spec.authorities.as_ref().map(|a| ca(tables, namespace, a)) {
        None => {}
        Some(Ok((cas, crl))) => {
            authorities = Some(cas);
            revoked = revoked.or(crl);
        }
        Some(Err(reason)) => note(reason),
    }
    ServerTls {
        mode: spec.mode,
        certificates,
        clients: ClientCertificates {
            authorities,
            revoked,
            names: spec.names.clone(),
            spki_hashes: spec.spki_hashes.clone(),
            hashes: spec.hashes.clone(),
            skip_verify: spec.skip_verify,
        },
        min: spec.min,
        max: spec.max,
        cipher_suites: spec.cipher_suites.clone(),
        alpn: if spec.http {
            vec!["h2", "http/1.1"]
        } else {
            Vec::new()
        },
        broken,
    }
}

pub(in crate::state) fn certificate(
    tables: &Tables,
    namespace: &Arc<str>,
    wanted: &CertificateRef,
) -> Result<Credential, String> {
    let name = match wanted {
        CertificateRef::Files { certificate, key } => {
            return Ok(Credential {
                certificate: CredentialSource::File(certificate.clone()),
                key: CredentialSource::File(key.clone()),
            });
        }
        CertificateRef::Secret(name) => ObjectName::new(Arc::clone(namespace), Arc::clone(name)),
    };
    let secret = tables
        .material("Secret", &name)
        .ok_or_else(|| format!("Secret {name} is not there, or holds no certificate"))?;
    let pair = CERTIFICATE_KEYS.into_iter().find_map(|(certificate, key)| {
        Some(Credential {
            certificate: part(&name, secret, certificate)?,
            key: part(&name, secret, key)?,
        })
    });
    pair.ok_or_else(|| format!("Secret {name} has neither tls.crt and tls.key nor cert and key"))
}

type Authorities = (CredentialSource, Option<CredentialSource>);

fn ca(tables: &Tables, namespace: &Arc<str>, wanted: &AuthorityRef) -> Result<Authorities, String> {
    let in_namespace = |name: &Arc<str>| ObjectName::new(Arc::clone(namespace), Arc::clone(name));
    let read = |kind: &'static str, name: &ObjectName| {
        let found = tables.material(kind, name)?;
        let cas = AUTHORITY_KEYS
            .into_iter()
            .find_map(|key| part(name, found, key))?;
        let crl = REVOCATION_KEYS.into_iter().find_map(|key| part(name, found, key));
        Some((cas, crl))
    };
    match wanted {
        AuthorityRef::File(path) => Ok((CredentialSource::File(path.clone()), None)),
        AuthorityRef::OfCredential(name) => {
            let name = in_namespace(name);
            let apart = authorities_of(&name);
            read("Secret", &apart)
                .or_else(|| read("Secret", &name))
                .ok_or_else(|| format!("neither Secret {apart} nor {name} has ca.crt or cacert"))
        }
        AuthorityRef::Named(name) => {
            let name = in_namespace(name);
            read("Secret", &name)
                .or_else(|| read("ConfigMap", &name))
                .ok_or_else(|| format!("neither Secret nor ConfigMap {name} has ca.crt or cacert"))
        }
    }
}

fn part(name: &ObjectName, from: &MaterialSpec, key: &'static str) -> Option<CredentialSource> {
    let pem = from.data.get(key)?;
    Some(CredentialSource::Object {
        named: format!("{} {name} key {key}", from.kind).into(),
        pem: Arc::clone(pem),
    })
}
