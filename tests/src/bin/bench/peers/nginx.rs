//! nginx: `stream` for TCP, `http` with kept upstream connections for HTTP. It speaks HTTP/1.1 to its upstreams only,
//! so that its HTTP/2 cell is h2 in, h1 out.

use super::{Hop, Pki, Protocol};
use std::fmt::Write;
use std::path::{Path, PathBuf};

pub(super) fn command(config: &Path) -> anyhow::Result<(PathBuf, Vec<String>)> {
    let args = ["-e", "stderr", "-c"]
        .map(str::to_owned)
        .into_iter()
        .chain([config.display().to_string()]);
    Ok(("nginx".into(), args.collect()))
}

fn head(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "daemon off;\nuser root;\nworker_processes 2;\npid {dir}/pid;\nerror_log stderr error;\n\
         events {{ worker_connections 8192; }}\n"
    )
}

pub(super) fn origin(dir: &Path, http1: u16, http2: u16) -> String {
    head(dir)
        + &format!(
            "http {{\n access_log off;\n keepalive_requests 100000000;\n \
             server {{ listen [::]:{http1} ipv6only=off backlog=4096; listen [::]:{http2} http2 ipv6only=off backlog=4096; \
             location / {{ return 200 'hello heddle'; }} }}\n}}\n"
        )
}

pub(super) fn config(hops: &[Hop], pki: &Pki, dir: &Path) -> String {
    let mut text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n{}",
        head(dir)
    );
    text += "stream {\n";
    let pki = pki.dir.display();
    for hop in hops.iter().filter(|hop| hop.protocol == Protocol::Tcp) {
        let tls = if hop.tls_in { " ssl" } else { "" };
        let _ = writeln!(
            text,
            " server {{ listen 0.0.0.0:{}{tls} backlog=4096; proxy_half_close on; proxy_pass {};",
            hop.listen, hop.to
        );
        if hop.tls_in {
            let _ = writeln!(
                text,
                "  ssl_protocols TLSv1.3; ssl_certificate {pki}/cert.pem; ssl_certificate_key {pki}/key.pem; \
                 ssl_client_certificate {pki}/ca.pem; ssl_verify_client on;"
            );
        }
        if hop.tls_out {
            let _ = writeln!(
                text,
                "  proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {pki}/cert.pem; \
                 proxy_ssl_certificate_key {pki}/key.pem; proxy_ssl_trusted_certificate {pki}/ca.pem; \
                 proxy_ssl_verify on; proxy_ssl_name bench;"
            );
        }
        text += " }\n";
    }
    text += "}\nhttp {\n access_log off;\n keepalive_requests 100000000;\n";
    for hop in hops.iter().filter(|hop| hop.protocol != Protocol::Tcp) {
        let http2 = if hop.protocol == Protocol::Http2 {
            " http2"
        } else {
            ""
        };
        // HTTP/2 towards the origin is not to be had, so both kinds end at its HTTP/1.1 port.
        let to = std::net::SocketAddr::new(hop.to.ip(), crate::cells::HTTP1);
        let port = hop.listen;
        let _ = writeln!(
            text,
            " upstream u{port} {{ server {to}; keepalive 256; keepalive_requests 100000000; }}\n server {{ \
             listen 0.0.0.0:{port}{http2} backlog=4096; location / {{ proxy_pass http://u{port}; \
             proxy_http_version 1.1; proxy_set_header Connection ''; }} }}"
        );
    }
    text + "}\n"
}
