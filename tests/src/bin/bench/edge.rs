//! The gateway beside proxies that do the same: plaintext at the edge, one route, an origin outside of the mesh.

use crate::cells::{BULK, Cell, HTTP1, HTTP2, Trio};
use anyhow::{Result, ensure};
use mesh_tests::agent::AgentSpec;
use mesh_tests::gateway;
use mesh_tests::manifests::{self, ConfigDir, PodOptions, Port};
use mesh_tests::process::{Place, Proc, built};
use mesh_tests::topology::Topology;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const NAMESPACE: &str = "edge";
/// HTTP/1.1 and HTTP/2: the gateway's ports, and where they lead.
const PORTS: [(u16, u16); 2] = [(19_080, HTTP1), (19_081, HTTP2)];

/// Starts it on the first node, as the peers are, and adds its cell.
pub(crate) fn start(
    ground: &Topology,
    pods: &Trio,
    procs: &mut Vec<Proc>,
    cells: &mut Vec<Cell>,
) -> Result<()> {
    eprintln!("▸ starting the gateway");
    let node = &ground.nodes[0];
    ConfigDir::new(ground.run())?.write("edge.yaml", objects(pods))?;
    let spec = AgentSpec::new(ground.run(), node)?;
    // An agent would make it.
    std::fs::create_dir_all(spec.state_dir())?;
    let cgroup = ground.run().cgroup().join("gateway");
    std::fs::create_dir(&cgroup)?;
    let place = Place {
        netns: node.netns.file().clone(),
        cgroup: cgroup.clone(),
    };
    let mut command = place.command(built("mesh-agent")?)?;
    let own = (NAMESPACE, "gateway");
    let address = IpAddr::from(node.v4);
    command
        .args(gateway::arguments(
            &spec,
            own,
            "gateway",
            "app=gateway",
            &[address],
        ))
        .args(["--access-log", "false"]);
    let mut proc = Proc::spawn("gateway", command, &ground.run().logs())?;
    mesh_tests::eventually("the gateway to be ready", Duration::from_secs(20), || {
        let ready = node
            .netns
            .http_get(SocketAddr::new(address, 15_021), "/healthz/ready");
        (ready.is_ok_and(|(status, _)| status == 200) || !proc.running()).then_some(())
    })?;
    ensure!(proc.running(), "the gateway ended: {}", proc.last_words());
    procs.push(proc);
    cells.push(Cell {
        target: "gateway",
        layer: "l7",
        tls: "plaintext",
        path: "same-node",
        client: pods.client.clone(),
        to: [PORTS[0].0, PORTS[1].0, BULK].map(|port| SocketAddr::new(address, port)),
        proxies: vec![cgroup],
    });
    Ok(())
}

fn objects(pods: &Trio) -> String {
    let labels: &[(&str, &str)] = &[("app", "near")];
    let options = PodOptions {
        labels,
        ..PodOptions::default()
    };
    let names = ["http-one", "http2-two"];
    let ports = PORTS.iter().zip(names).map(|((_, to), name)| Port {
        name,
        port: *to,
        target: *to,
    });
    let ports: Vec<Port<'_>> = ports.collect();
    let ip = IpAddr::from([10, 96, 8, 1]);
    let mut text = manifests::namespace(NAMESPACE, false)
        + &manifests::pod(NAMESPACE, &pods.near, &options)
        + &manifests::service(NAMESPACE, "near", labels, &[ip], &ports, &[]);
    for (port, to) in PORTS {
        text += &format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: on-{port}, namespace: {NAMESPACE}}}\n\
             spec:\n  selector: {{app: gateway}}\n  \
             servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: [\"*\"]}}]\n---\n\
             apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: on-{port}, namespace: {NAMESPACE}}}\n\
             spec:\n  hosts: [\"*\"]\n  gateways: [on-{port}]\n  \
             http: [{{route: [{{destination: {{host: near, port: {{number: {to}}}}}}}]}}]\n---\n"
        );
    }
    text
}
