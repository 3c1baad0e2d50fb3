//! A Gateway of class `heddle` on a real cluster: deployed, reached, changed under load, explained, and gone with its object.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::Cluster;
use mesh_tests::cluster_app::App;
use mesh_tests::cluster_crds::gateway_crds;
use mesh_tests::eventually;
use mesh_tests::gateway::Authority;
use mesh_tests::process::built;
use serde_json::Value;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);
const HOST: &str = "shop.example.com";

/// The Gateway with one listener, or with another one for HTTPS; `team` is a label of its infrastructure.
fn gateway(https: bool, team: &str) -> String {
    let secure = if https {
        "\n  - {name: https, port: 443, protocol: HTTPS, hostname: shop.example.com, tls: {certificateRefs: [{name: shop-cert}]}}"
    } else {
        ""
    };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  gatewayClassName: heddle\n  \
         infrastructure: {{labels: {{team: {team}}}}}\n  listeners:\n  - {{name: http, port: 80, protocol: HTTP}}{secure}\n"
    )
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge}
spec:
  parentRefs: [{name: edge}]
  hostnames: [shop.example.com]
  rules:
  - name: echo
    backendRefs: [{name: echo, port: 80}]
";

const STRICT: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
";

/// An application in the mesh, and what its Gateway comes to.
struct Stage {
    app: App,
    cluster: Cluster,
}

impl Stage {
    fn space(&self) -> &str {
        &self.app.space.name
    }

    fn get(&self, what: &[&str]) -> Option<Value> {
        let args = [&["-n", self.space(), "get"], what].concat();
        self.cluster.json(&args).ok()
    }

    fn gateway(&self) -> Option<Value> {
        self.get(&["gateways.gateway.networking.k8s.io", "edge"])
    }

    /// Waits until the Gateway and as many listeners as it has are programmed; its address.
    fn programmed(&self, listeners: usize) -> String {
        eventually("the Gateway to be programmed", MINUTE, || {
            let gateway = self.gateway()?;
            let generation = &gateway["metadata"]["generation"];
            let holds = |of: &Value| {
                let conditions = of["conditions"].as_array().into_iter().flatten();
                { conditions }.any(|c| {
                    c["type"] == "Programmed"
                        && c["status"] == "True"
                        && c["observedGeneration"] == *generation
                })
            };
            let status = &gateway["status"];
            let ready = status["listeners"]
                .as_array()?
                .iter()
                .filter(|l| holds(l))
                .count();
            (holds(status) && ready == listeners)
                .then(|| status["addresses"][0]["value"].as_str().map(str::to_owned))?
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:?}", self.gateway()))
    }

    /// A request of the client's pod: status and body.
    fn curl(&self, args: &str) -> (String, Value) {
        let script = format!("curl -s -m 4 -w '\\n%{{http_code}}' {args} || true");
        let said = self.app.space.exec("client", &["sh", "-c", &script]).unwrap();
        let (body, status) = said.trim_end().rsplit_once('\n').unwrap_or(("", &said));
        (
            status.trim().to_owned(),
            serde_json::from_str(body).unwrap_or_default(),
        )
    }

    fn plain(&self, address: &str) -> (String, Value) {
        self.curl(&format!("-H 'Host: {HOST}' http://{address}/"))
    }

    /// Over HTTPS, believing these CAs.
    fn secure(&self, address: &str, roots: &str) -> (String, Value) {
        self.app
            .space
            .exec(
                "client",
                &["sh", "-c", &format!("echo '{roots}' > /tmp/roots.pem")],
            )
            .unwrap();
        self.curl(&format!(
            "--cacert /tmp/roots.pem --resolve {HOST}:443:{address} https://{HOST}/"
        ))
    }

    /// Whether an account of this namespace may do something.
    fn may(&self, account: (&str, &str), words: &[&str]) -> bool {
        let who = format!("--as=system:serviceaccount:{}:{}", account.0, account.1);
        // It exits with 1 where the answer is no.
        self.cluster
            .kubectl(&[&["auth", "can-i", "-q"], words, &[&who]].concat())
            .is_ok()
    }

    /// `heddle` as a user of the cluster runs it.
    fn heddle(&self, mesh: &str, args: &[&str]) -> Value {
        let output = Command::new(built("heddle").unwrap())
            .args(args)
            .args(["--output", "json", "--mesh-namespace", mesh])
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Lines of the agents' logs with this in them.
fn logged(cluster: &Cluster, mesh: &str, words: &str) -> usize {
    let args = ["-n", mesh, "logs", "-l", "app=heddle-agent", "--tail=-1"];
    let said = cluster.kubectl(&args).unwrap();
    said.lines().filter(|line| line.contains(words)).count()
}

/// Says how it went, and how long that took.
fn passed(since: &mut std::time::Instant, what: &str) {
    eprintln!("{what}: {:.1} s", since.elapsed().as_secs_f64());
    *since = std::time::Instant::now();
}

#[test]
fn a_gateway_is_deployed_reached_changed_explained_and_gone_with_its_object() {
    let cluster = Cluster::current().unwrap();
    let mut since = std::time::Instant::now();
    // Without load balancers an address of the cluster will do.
    let (app, release) = App::in_mesh(
        &cluster,
        &[
            "--set",
            "controller.gatewayApi.type=ClusterIP",
            "--set",
            "meshConfig.accessLogFile=/dev/stdout",
        ],
    );
    let mesh = release.space.name.clone();
    let stage = Stage {
        app,
        cluster: cluster.clone(),
    };
    let space = stage.space().to_owned();
    passed(&mut since, "installed");

    // The kinds come while everything runs: nothing is restarted for them.
    let _crds = gateway_crds(&cluster).unwrap();
    stage
        .app
        .space
        .apply(&(gateway(false, "red") + "---\n" + ROUTE + "---\n" + STRICT))
        .unwrap();
    let address = stage.programmed(1);
    eventually("the route's first answer", SOON, || {
        (stage.plain(&address).0 == "200").then_some(())
    })
    .unwrap();
    passed(&mut since, "reached");
    let (_, answer) = stage.plain(&address);
    assert!(
        answer["node"].as_str().is_some_and(|v| v.starts_with('v')),
        "{answer}"
    );
    assert_eq!(
        stage
            .curl(&format!("-H 'Host: other.example.com' http://{address}/"))
            .0,
        "404"
    );
    // STRICT lets nothing in without mutual TLS; the pods' side says whose certificate it saw.
    let identity = format!("\"src.identity\":\"spiffe://cluster.local/ns/{space}/sa/edge-heddle\"");
    eventually("the gateway's identity in the agents' logs", SOON, || {
        (logged(&cluster, &mesh, &identity) > 0).then_some(())
    })
    .unwrap();

    least_rights(&stage, &mesh, "before certificates", false);
    let [old, new] = [Authority::new().unwrap(), Authority::new().unwrap()];
    let secret = |ca: &Authority| {
        ca.sign(HOST)
            .unwrap()
            .secret_in(&space, "shop-cert", None)
            .unwrap()
    };
    stage.app.space.apply(&secret(&old)).unwrap();
    stage.app.space.apply(&gateway(true, "blue")).unwrap();
    assert_eq!(stage.programmed(2), address, "the address stays");
    eventually("HTTPS", SOON, || {
        (stage.secure(&address, &old.pem).0 == "200").then_some(())
    })
    .unwrap();
    for kind in ["deployment", "service", "serviceaccount"] {
        eventually("the infrastructure's new label", SOON, || {
            let object = stage.get(&[kind, "edge-heddle"])?;
            (object["metadata"]["labels"]["team"] == "blue").then_some(())
        })
        .unwrap();
    }
    passed(&mut since, "changed");
    least_rights(&stage, &mesh, "with certificates", true);
    explained(&stage, &mesh);
    passed(&mut since, "explained");

    rotated_without_loss(&stage, &address, &[&old, &new], &secret(&new));
    passed(&mut since, "rotated");
    stage.app.nothing_lost("a gateway's life");

    stage
        .cluster
        .kubectl(&[
            "-n",
            &space,
            "delete",
            "gateways.gateway.networking.k8s.io",
            "edge",
        ])
        .unwrap();
    for kind in ["deployment", "service", "serviceaccount"] {
        eventually(&format!("the {kind} to be gone"), MINUTE, || {
            stage.get(&[kind, "edge-heddle"]).is_none().then_some(())
        })
        .unwrap();
    }
    eventually("the rights to be gone", MINUTE, || {
        let binding = stage.get(&["rolebinding", "heddle-gateway-secrets"]);
        let all = cluster
            .json(&["get", "clusterrolebinding", "heddle-gateway"])
            .ok()?;
        (binding.is_none() && !all["subjects"].to_string().contains(&space)).then_some(())
    })
    .unwrap();
    assert!(!stage.may(
        (&space, "edge-heddle"),
        &["list", "httproutes.gateway.networking.k8s.io"]
    ));
    assert_ne!(stage.plain(&address).0, "200");
    passed(&mut since, "gone");
}

/// The gateway's account reads what routes are made of, and the Secrets of its namespace once its Gateway names one there;
/// the controller no more than that of Secrets.
fn least_rights(stage: &Stage, mesh: &str, when: &str, certificates: bool) {
    let space = stage.space();
    let gateway = (space, "edge-heddle");
    let controller = (mesh, "heddle-controller");
    let table: [((&str, &str), &[&str], bool); 10] = [
        (
            gateway,
            &["list", "httproutes.gateway.networking.k8s.io", "-A"],
            true,
        ),
        (gateway, &["list", "secrets", "-n", space], certificates),
        (gateway, &["list", "secrets", "-n", "kube-system"], false),
        (gateway, &["list", "pods", "-A"], false),
        (
            gateway,
            &[
                "patch",
                "gateways.gateway.networking.k8s.io",
                "--subresource=status",
                "-n",
                space,
            ],
            false,
        ),
        (gateway, &["create", "deployments", "-n", space], false),
        (controller, &["list", "secrets", "-n", space], certificates),
        (controller, &["list", "secrets", "-n", "kube-system"], false),
        (controller, &["delete", "namespaces"], false),
        (controller, &["create", "clusterrolebindings"], false),
    ];
    for (account, words, expected) in table {
        let granted = || (stage.may(account, words) == expected).then_some(());
        eventually(
            &format!("{when}: {account:?} {words:?} to be {expected}"),
            SOON,
            granted,
        )
        .unwrap();
    }
}

/// `heddle why`, `status` and `routes` find the gateway by its name and tell of it what was asked.
fn explained(stage: &Stage, mesh: &str) {
    let space = stage.space();
    let told = stage.heddle(
        mesh,
        &[
            "why",
            &format!("{space}/edge"),
            &format!("{HOST}:443"),
            "--path",
            "/x",
        ],
    );
    assert_eq!(told["listener"]["field"], "spec.listeners[1]", "{told}");
    assert_eq!(told["route"]["kind"], "HTTPRoute", "{told}");
    assert_eq!(told["route"]["object"], format!("{space}/edge"), "{told}");
    assert_eq!(told["endpoints"].as_array().map(Vec::len), Some(4), "{told}");
    assert!(
        told["steps"]
            .to_string()
            .contains(&format!("Secret {space}/shop-cert")),
        "{told}"
    );

    let status = stage.heddle(mesh, &["status"]);
    let gateways = status["gateways"].as_array().unwrap();
    assert_eq!(gateways.len(), 1, "{status}");
    assert_eq!(
        gateways[0]["gateway"]["serves"],
        format!("{space}/edge"),
        "{status}"
    );
    let ports = gateways[0]["ports"].as_array().unwrap();
    let of = |number: u16| {
        ports
            .iter()
            .flat_map(|p| p["listeners"].as_array().unwrap())
            .find(|l| l["port"] == number)
    };
    assert!(of(443).unwrap()["tls"]["broken"].is_null(), "{status}");
    assert_eq!(
        of(80).unwrap()["object"],
        format!("Gateway {space}/edge"),
        "{status}"
    );

    let proof = stage.heddle(mesh, &["status", "--in-force", "--wait", "10"]);
    assert_eq!(proof["proved"], true, "{proof}");
    let members = proof["members"].as_array().unwrap();
    let names = members.iter().map(|member| member["name"].to_string());
    assert!(
        names.filter(|name| name.contains("gateway")).count() == 1,
        "{proof}"
    );
    // The route on both nodes' agents, and what they were given besides: one PeerAuthentication.
    assert!(
        members.iter().all(|member| member["objects"].as_u64() >= Some(2)),
        "{proof}"
    );

    let routes = stage.heddle(mesh, &["routes"]);
    let shown = routes["gateways"][0]["routes"].to_string();
    assert!(
        shown.contains(HOST) && shown.contains(&format!("HTTPRoute {space}/edge")),
        "{routes}"
    );
}

/// Requests over HTTPS go on while the certificate is replaced by one of another CA; clients believe both.
fn rotated_without_loss(stage: &Stage, address: &str, cas: &[&Authority; 2], secret: &str) {
    let [old, new] = cas.map(|ca| ca.pem.clone());
    let both = format!("{old}{new}");
    assert_eq!(stage.secure(address, &both).0, "200");
    let done = AtomicBool::new(false);
    let statuses = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let ask = format!(
                "cp /tmp/roots.pem /tmp/both.pem; for i in $(seq 25); do curl -s -m 4 -o /dev/null -w '%{{http_code}}\\n' \
                 --cacert /tmp/both.pem --resolve {HOST}:443:{address} https://{HOST}/; done"
            );
            let mut statuses = Vec::new();
            while !done.load(Ordering::Relaxed) || statuses.len() < 100 {
                let said = stage.app.space.exec("client", &["sh", "-c", &ask]).unwrap_or_default();
                statuses.extend(said.lines().map(str::to_owned));
            }
            statuses
        });
        eventually("the load to be under way", SOON, || {
            let there = ["test", "-e", "/tmp/both.pem"];
            stage.app.space.exec("client", &there).ok()
        })
        .unwrap();
        stage.app.space.apply(secret).unwrap();
        let rotated = eventually("the new certificate", SOON, || {
            (stage.secure(address, &new).0 == "200").then_some(())
        });
        done.store(true, Ordering::Relaxed);
        rotated.unwrap();
        load.join().unwrap()
    });
    assert!(
        statuses.len() >= 100 && statuses.iter().all(|status| status == "200"),
        "{statuses:?}"
    );
    assert_ne!(
        stage.secure(address, &old).0,
        "200",
        "the old certificate is not shown any more"
    );
}
