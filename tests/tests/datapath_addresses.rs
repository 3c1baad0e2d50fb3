//! What applications see of each other's addresses, by the way that a connection takes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests end the test, as the tests do"
)]

use mesh_tests::mesh::{Builder, Mesh};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

fn ground() -> Builder {
    Mesh::build()
        .pod(1, "client")
        .pod(1, "near")
        .echo()
        .http()
        .pod(2, "far")
        .echo()
        .http()
        .outsider(1, "stranger")
        .echo()
        .service("near", "near", 1, "tcp-echo", 7000, 7000)
        .service("far", "far", 2, "tcp-echo", 7000, 7000)
        .service("near-proxied", "near", 3, "echo", 7100, 7000)
        .service("far-proxied", "far", 4, "echo", 7100, 7000)
}

fn ip_of(value: &Value) -> IpAddr {
    let text = value.as_str().unwrap_or_else(|| panic!("no address: {value}"));
    let address: SocketAddr = text.parse().unwrap_or_else(|_| panic!("no address: {text}"));
    match address.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    }
}

#[test]
fn both_ends_see_the_addresses_that_they_would_see_without_a_mesh() {
    let mesh = ground().start().unwrap();
    for service in ["near", "far", "near-proxied", "far-proxied"] {
        for (vip, own) in mesh
            .service(service)
            .vips()
            .into_iter()
            .zip(mesh.pod("client").ips())
        {
            let answer = mesh
                .pod("client")
                .podkit(&["connect", "--to", &vip.to_string()])
                .unwrap();
            assert_eq!(answer["ok"], true, "{service} {vip}: {answer}");
            assert_eq!(answer["getpeername"], vip.to_string(), "{service}: {answer}");
            assert_eq!(ip_of(&answer["getsockname"]), own, "{service} {vip}: {answer}");
            let seen = &answer["reply"]["seen"];
            assert_eq!(ip_of(&seen["accept"]), own, "{service} {vip}: {answer}");
            assert_eq!(ip_of(&seen["getpeername"]), own, "{service} {vip}: {answer}");
        }
    }
}
