//! HAProxy: `mode tcp` and `mode http` with connection reuse.

use super::{Hop, Pki, Protocol};
use std::fmt::Write;
use std::path::{Path, PathBuf};

pub(super) fn command(config: &Path) -> anyhow::Result<(PathBuf, Vec<String>)> {
    Ok((
        "haproxy".into(),
        ["-db", "-f"]
            .map(str::to_owned)
            .into_iter()
            .chain([config.display().to_string()])
            .collect(),
    ))
}

pub(super) fn config(hops: &[Hop], pki: &Pki, _dir: &Path) -> String {
    let pki = pki.dir.display();
    let mut text = format!(
        "global\n  nbthread 2\n  maxconn 8000\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
         ssl-default-server-options ssl-min-ver TLSv1.3\n  crt-base {pki}\ndefaults\n  timeout connect 5s\n  \
         timeout client 60s\n  timeout server 60s\n  http-reuse always\n"
    );
    for hop in hops {
        let (port, to) = (hop.listen, hop.to);
        let mode = if hop.protocol == Protocol::Tcp {
            "tcp"
        } else {
            "http"
        };
        let http2 = if hop.protocol == Protocol::Http2 {
            " proto h2"
        } else {
            ""
        };
        let bind = if hop.tls_in {
            format!(" ssl crt {pki}/both.pem ca-file {pki}/ca.pem verify required")
        } else {
            String::new()
        };
        let server = if hop.tls_out {
            format!(" ssl crt {pki}/both.pem ca-file {pki}/ca.pem verify required")
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "listen p{port}\n  mode {mode}\n  bind 0.0.0.0:{port}{http2}{bind}\n  server s {to}{http2}{server}"
        );
    }
    text
}
