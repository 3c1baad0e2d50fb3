//! What a gateway says of a client's certificate: `x-forwarded-client-cert`, as Envoy writes it.

use http::HeaderValue;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// `Hash=…;Subject="…";URI=…;DNS=…` of a verified leaf.
pub(super) fn forwarded(leaf: &[u8]) -> Option<HeaderValue> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let mut text = String::from("Hash=");
    for byte in Sha256::digest(leaf) {
        let _ = write!(text, "{byte:02x}");
    }
    let _ = write!(text, ";Subject={}", quoted(&certificate.subject().to_string()));
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|san| &san.value.general_names) {
        match name {
            GeneralName::URI(uri) => _ = write!(text, ";URI={}", plain_or_quoted(uri)),
            GeneralName::DNSName(dns) => _ = write!(text, ";DNS={}", plain_or_quoted(dns)),
            _ => {}
        }
    }
    // Bytes that no field value may hold are the certificate's own fault: then there is no field.
    HeaderValue::from_str(&text).ok()
}

fn plain_or_quoted(value: &str) -> String {
    if value.contains([',', ';', '=', '"']) {
        quoted(value)
    } else {
        value.to_owned()
    }
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
