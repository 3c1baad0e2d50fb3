use super::*;

fn blocks(simple: Option<Simple>, max: Option<u32>, outliers: bool) -> Blocks {
    let load_balancer = simple.map(|simple| LoadBalancer {
        algorithm: Algorithm::Simple(simple),
        ..LoadBalancer::default()
    });
    let connection_pool = max.map(|max| ConnectionPool {
        tcp: TcpSettings {
            max_connections: Some(max),
            ..TcpSettings::default()
        },
        ..ConnectionPool::default()
    });
    Blocks {
        load_balancer,
        connection_pool,
        outlier_detection: outliers.then(OutlierDetection::default),
        tls: None,
    }
}

fn level(blocks: Blocks, ports: Vec<(u16, Blocks)>) -> PolicySpec {
    PolicySpec {
        blocks,
        ports,
        ..PolicySpec::default()
    }
}

/// T-28; the rows follow pilot's `MergeTrafficPolicy`.
#[test]
fn a_block_of_a_subset_replaces_the_hosts_and_a_port_replaces_all_blocks() {
    use Simple::{Random, RoundRobin};
    let host = level(
        blocks(Some(Random), Some(1), true),
        vec![(81, blocks(Some(RoundRobin), None, false))],
    );
    let subset = level(blocks(None, Some(2), false), Vec::new());
    let of_port = level(
        blocks(None, Some(3), false),
        vec![(80, blocks(Some(RoundRobin), None, false))],
    );
    type Row<'a> = (&'a str, Vec<&'a PolicySpec>, u16, Simple, Option<u32>, bool);
    let rows: Vec<Row<'_>> = vec![
        ("the host's blocks", vec![&host], 80, Random, Some(1), true),
        (
            "what a port leaves out is the default",
            vec![&host],
            81,
            RoundRobin,
            None,
            false,
        ),
        (
            "a subset overrides block by block",
            vec![&host, &subset],
            80,
            Random,
            Some(2),
            true,
        ),
        (
            "over the host's port as well",
            vec![&host, &subset],
            81,
            RoundRobin,
            Some(2),
            false,
        ),
        (
            "a subset's port replaces both levels",
            vec![&host, &of_port],
            80,
            RoundRobin,
            None,
            false,
        ),
        (
            "and only that port",
            vec![&host, &of_port],
            81,
            RoundRobin,
            Some(3),
            false,
        ),
    ];
    for (what, levels, port, simple, max, outliers) in rows {
        let merged = TrafficPolicy::merged(&levels, port, Vec::new());
        assert_eq!(
            merged.load_balancer.algorithm,
            Algorithm::Simple(simple),
            "{what}"
        );
        assert_eq!(merged.connection_pool.tcp.max_connections, max, "{what}");
        assert_eq!(merged.outlier_detection.is_some(), outliers, "{what}");
    }
}

#[test]
fn what_is_no_block_of_a_port_outlives_the_ports_settings() {
    let host = PolicySpec {
        proxy_protocol: Some(ProxyProtocol::V2),
        ..level(Blocks::default(), vec![(80, Blocks::default())])
    };
    let merged = TrafficPolicy::merged(&[&host], 80, Vec::new());
    assert_eq!(merged.proxy_protocol, Some(ProxyProtocol::V2));
}

#[test]
fn only_what_the_kernel_does_is_left_to_it() {
    assert!(TrafficPolicy::default().kernel_can());
    let with = |blocks: Blocks| TrafficPolicy::merged(&[&level(blocks, Vec::new())], 80, Vec::new());
    assert!(with(blocks(Some(Simple::Random), None, false)).kernel_can());
    assert!(!with(blocks(Some(Simple::RoundRobin), None, false)).kernel_can());
    assert!(!with(blocks(None, Some(1), false)).kernel_can());
    assert!(!with(blocks(None, None, true)).kernel_can());
}

#[test]
fn a_new_endpoint_warms_up_along_its_curve() {
    let warmup = |aggression: u32| Warmup {
        duration: Duration::from_secs(10),
        minimum_percent: 10,
        aggression_thousandths: aggression,
    };
    let at = |aggression, secs| (warmup(aggression).factor(Duration::from_secs(secs)) * 100.0).round();
    assert_eq!((at(1_000, 0), at(1_000, 5), at(1_000, 10)), (10.0, 50.0, 100.0));
    assert_eq!(at(2_000, 5), 71.0, "the square root of a half");
}
