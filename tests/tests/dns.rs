//! Names: hosts of ServiceEntries without an address are told apart by one that the mesh gives them, and everything else that
//! pods ask goes to their own name server.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::mesh::Mesh;
use mesh_tests::process::Proc;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

/// A mesh of two clients, a name server that is not in it, and two databases on one port that no object but
/// ServiceEntries knows.
struct World {
    mesh: Mesh,
    servers: [SocketAddr; 2],
    outside: [IpAddr; 2],
    name_server: Proc,
    _databases: [Proc; 2],
}

impl World {
    fn open() -> Self {
        let mut mesh = Mesh::build().pod(1, "client").pod(2, "other").ground().unwrap();
        let dns = mesh.ground.pod(2, "dns").unwrap();
        let [red, blue] = ["red", "blue"].map(|name| mesh.ground.pod(2, name).unwrap());
        let args = [
            "dns-server",
            "--record",
            "real.example.org=192.0.2.7",
            "--record",
            "red.example.com=192.0.2.8",
        ];
        let name_server = dns.serve(&args).unwrap();
        let databases = [(&red, "red"), (&blue, "blue")].map(|(pod, name)| {
            pod.serve(&["echo-server", "--name", name, "--listen", "[::]:5432"])
                .unwrap()
        });
        let outside = [red.ips()[0], blue.ips()[0]];
        let mut rules = String::new();
        for (name, ip) in ["red", "blue"].iter().zip(outside) {
            rules += &entry(name, &format!("endpoints: [{{address: {ip}}}]"));
        }
        mesh.config.write("50-rules.yaml", rules).unwrap();
        mesh.start_agents().unwrap();
        Self {
            servers: dns.ips().map(|ip| SocketAddr::new(ip, 53)),
            mesh,
            outside,
            name_server,
            _databases: databases,
        }
    }

    fn ask_from(&self, pod: &str, server: SocketAddr, name: &str, more: &[&str]) -> Value {
        let server = server.to_string();
        let mut args = vec!["ask", "--server", &server, "--name", name];
        args.extend(more);
        self.mesh.pod(pod).podkit(&args).unwrap()["answers"].clone()
    }

    fn ask(&self, name: &str, more: &[&str]) -> Value {
        self.ask_from("client", self.servers[0], name, more)
    }

    /// The one address of a name.
    fn address(&self, pod: &str, name: &str) -> IpAddr {
        let answers = self.ask_from(pod, self.servers[0], name, &[]);
        let found = answers[0]["records"][0].as_str().and_then(|ip| ip.parse().ok());
        found.unwrap_or_else(|| panic!("{name}: {answers}"))
    }

    /// Who answers at an address.
    fn connect(&self, ip: IpAddr) -> Value {
        let to = SocketAddr::new(ip, 5432).to_string();
        self.mesh.pod("client").podkit(&["connect", "--to", &to]).unwrap()
    }

    /// What the name server was asked for, the last message.
    fn last_asked(&self) -> Value {
        let text = self.name_server.stdout();
        let last = text
            .lines()
            .rev()
            .find(|line| line.contains("\"asked\""))
            .unwrap();
        serde_json::from_str(last).unwrap()
    }

    fn times_asked(&self, name: &str) -> usize {
        let text = self.name_server.stdout();
        text.lines()
            .filter(|line| line.contains("\"asked\"") && line.contains(name))
            .count()
    }
}

fn entry(name: &str, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: mesh}}\n\
         spec: {{hosts: [{name}.example.com], resolution: STATIC, \
         ports: [{{number: 5432, name: tcp, protocol: TCP}}], {more}}}\n---\n"
    )
}

#[test]
fn two_databases_on_one_port_are_told_apart_by_the_addresses_of_their_names() {
    let world = World::open();
    let addresses = ["red.example.com", "blue.example.com"].map(|name| world.address("client", name));
    assert_ne!(addresses[0], addresses[1]);
    for (ip, name) in addresses.iter().zip(["red", "blue"]) {
        let answer = world.connect(*ip);
        assert!(answer.to_string().contains(&format!("\"{name}\"")), "{answer}");
        assert_eq!(
            world.address("other", &format!("{name}.example.com")),
            *ip,
            "on every node"
        );
    }
    // An application that is not told: the C library's resolver, with its search list.
    let conf = mesh_tests::mesh::MESH;
    let file = std::env::temp_dir().join(format!("heddle-resolv-{}", std::process::id()));
    let lines = format!(
        "search {conf}.svc.cluster.local\nnameserver {}\noptions ndots:5\n",
        world.servers[0].ip()
    );
    std::fs::write(&file, lines).unwrap();
    let script = format!(
        "mount --bind {} /etc/resolv.conf && exec getent ahostsv4 Red.Example.com",
        file.display()
    );
    let output = world
        .mesh
        .pod("client")
        .output("/usr/bin/unshare".as_ref(), &["-m", "sh", "-c", &script])
        .unwrap();
    std::fs::remove_file(&file).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&addresses[0].to_string()), "{output:?}");
    assert!(
        world.times_asked("svc.cluster.local") > 0,
        "its search list is the name server's: {output:?} {}",
        world.name_server.stdout()
    );
    assert_eq!(world.times_asked("red.example.com\""), 0);
}

#[test]
fn every_kind_of_socket_is_answered_by_whom_it_asked_and_other_questions_arrive_as_they_were_sent() {
    let world = World::open();
    let vip = world.address("client", "red.example.com").to_string();
    let ways: [&[&str]; 5] = [
        &["--via", "connect"],
        &["--via", "sendto"],
        &["--via", "tcp"],
        &["--via", "connect", "--v4-mapped"],
        &["--via", "sendto", "--v4-mapped"],
    ];
    for way in ways {
        for server in world.servers {
            if server.is_ipv6() && way.contains(&"--v4-mapped") {
                continue;
            }
            let ours = &world.ask_from("client", server, "RED.example.com", way)[0];
            assert_eq!(ours["records"][0], *vip, "{way:?} {server}: {ours}");
            assert_eq!(ours["name"], "RED.example.com.", "in its letters");
            let theirs = &world.ask_from("client", server, "real.example.org", way)[0];
            assert_eq!(theirs["records"][0], "192.0.2.7", "{way:?} {server}: {theirs}");
            assert_eq!(world.last_asked()["hex"], theirs["sent"], "byte for byte");
            let pod = world.mesh.pod("client").ips()[usize::from(server.is_ipv6())];
            assert_eq!(world.last_asked()["from"], pod.to_string(), "from the pod");
            for answer in [ours, theirs] {
                for seen in ["from", "peer"] {
                    let Some(seen) = answer[seen].as_str() else {
                        continue;
                    };
                    let seen: SocketAddr = seen.parse().unwrap();
                    assert_eq!(
                        (seen.ip().to_canonical(), seen.port()),
                        (server.ip(), 53),
                        "{way:?}: {answer}"
                    );
                }
            }
        }
    }
    for (name, more, expected) in [
        ("red.example.com", &["--type", "AAAA"][..], ("No Error", 1)),
        ("red.example.com", &["--type", "TXT"], ("No Error", 1)),
        ("real.example.org", &["--type", "AAAA"], ("No Error", 0)),
        ("nobody.example.org", &[], ("Non-Existent Domain", 0)),
        (
            "nobody.example.org",
            &["--edns", "1232"],
            ("Non-Existent Domain", 0),
        ),
        ("real.example.org", &["--update"], ("No Error", 1)),
    ] {
        let answer = &world.ask(name, more)[0];
        let records = answer["records"].as_array().map(Vec::len);
        assert_eq!(
            (answer["code"].as_str(), records),
            (Some(expected.0), Some(expected.1)),
            "{name} {more:?}: {answer}"
        );
    }
    // musl asks all of its servers by one socket, and knows them by their addresses.
    let second = SocketAddr::new(world.servers[0].ip(), 53).to_string();
    let dead = SocketAddr::new(world.outside[0], 53).to_string();
    let args = [
        "ask",
        "--via",
        "sendto",
        "--server",
        &second,
        "--server",
        &dead,
        "--name",
        "real.example.org",
    ];
    let answers = world.mesh.pod("client").podkit(&args).unwrap()["answers"].clone();
    let from = |server: &str| {
        let found = answers.as_array().unwrap().iter().find(|a| a["from"] == server);
        found.unwrap_or_else(|| panic!("{server}: {answers}")).clone()
    };
    assert_eq!(from(&second)["records"][0], "192.0.2.7", "{answers}");
    assert_eq!(from(&dead)["code"], "Server Failure", "at once: {answers}");
}

/// Clients take a new socket for each name: a burst of names must not run out of what is kept for open questions.
#[test]
fn a_pod_that_asks_for_many_names_in_a_second_has_an_answer_to_each() {
    let world = World::open();
    let more: Vec<&str> = ["--name", "real.example.org"].repeat(1_500);
    let answers = world.ask("real.example.org", &more);
    let answers = answers.as_array().unwrap();
    let wrong = answers.iter().find(|answer| answer["records"][0] != "192.0.2.7");
    assert_eq!((answers.len(), wrong), (1_501, None));
}

#[test]
fn a_connection_asks_for_names_of_both_and_unknown_ones_go_on_to_the_name_server() {
    let world = World::open();
    let vip = world.address("client", "blue.example.com").to_string();
    let more = [
        "--name",
        "red.example.com",
        "--name",
        "real.example.org",
        "--via",
        "tcp",
    ];
    let answers = world.ask("blue.example.com", &more);
    assert_eq!(answers[0]["records"][0], *vip, "{answers}");
    assert_eq!(answers[1]["code"], "No Error", "{answers}");
    assert_eq!(answers[2]["records"][0], "192.0.2.7", "{answers}");
    assert_eq!(world.last_asked()["over"], "tcp");
}

#[test]
fn names_are_answered_without_an_agent_by_the_name_server_and_databases_keep_their_addresses() {
    let mut world = World::open();
    let vip = world.address("client", "red.example.com");
    world.mesh.agents[0].kill();
    // At once: not one question is lost to an agent that is not there.
    for via in ["connect", "sendto", "tcp"] {
        let answer = &world.ask("real.example.org", &["--via", via])[0];
        assert_eq!(answer["records"][0], "192.0.2.7", "{via}: {answer}");
        let answer = &world.ask("red.example.com", &["--via", via])[0];
        assert_eq!(
            answer["records"][0], "192.0.2.8",
            "{via}: the name server's word: {answer}"
        );
    }
    world.mesh.agents[0].restart().unwrap();
    world.mesh.await_captured().unwrap();
    eventually("the address of before", SOON, || {
        (world.address("client", "red.example.com") == vip).then_some(())
    })
    .unwrap();
    assert!(world.connect(vip).to_string().contains("\"red\""));
}

#[test]
fn a_pod_opts_out_and_one_that_leaves_leaves_nothing() {
    let mut world = World::open();
    let vip = world.address("client", "red.example.com");
    let annotated = |on: &str| format!("  annotations:\n    ambient.istio.io/dns-capture: \"{on}\"\n");
    world
        .mesh
        .config
        .edit("20-pods.yaml", "  annotations:\n", &annotated("false"))
        .unwrap();
    eventually("the pod to ask its own name server", SOON, || {
        (world.address("client", "red.example.com").to_string() == "192.0.2.8").then_some(())
    })
    .unwrap();
    world.mesh.apply().unwrap();
    eventually("the mesh's answers again", SOON, || {
        (world.address("client", "red.example.com") == vip).then_some(())
    })
    .unwrap();
    let listening = |world: &World| {
        let pod = world.mesh.pod("client");
        let table = pod
            .output("/bin/cat".as_ref(), &["/proc/net/udp", "/proc/net/udp6"])
            .unwrap();
        // 15060 and the following three.
        let text = String::from_utf8_lossy(&table.stdout).into_owned();
        text.matches(":3AD4 ").count() + text.matches(":3AD7 ").count()
    };
    assert_eq!(listening(&world), 4, "both families");
    world
        .mesh
        .member("client")
        .set_label("heddle.io/mesh", "disabled");
    world.mesh.apply().unwrap();
    world.mesh.await_captured().unwrap();
    assert_eq!(
        world.address("client", "red.example.com").to_string(),
        "192.0.2.8"
    );
    eventually("the sockets to be closed", Duration::from_secs(10), || {
        (listening(&world) == 0).then_some(())
    })
    .unwrap();
    let entries = |world: &World| {
        let samples = world.mesh.agents[0].spec.metrics().unwrap();
        let found = samples
            .iter()
            .find(|s| s.label("map") == "RESOLVERS" && s.name == "heddle_bpf_map_entries");
        found.unwrap_or_else(|| panic!("no figure of RESOLVERS")).value
    };
    eventually(
        "its name servers to be forgotten",
        Duration::from_secs(15),
        || (entries(&world) < 0.5).then_some(()),
    )
    .unwrap();
}
