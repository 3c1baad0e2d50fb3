use super::*;
use crate::listener_kind;

fn v4(a: u8, b: u8, c: u8, d: u8) -> Ip {
    Ip::v4([a, b, c, d])
}

#[test]
fn localhost_is_never_captured_in_any_form() {
    let pod = v4(10, 0, 0, 1);
    for ip in [
        v4(127, 0, 0, 1),
        v4(127, 9, 9, 9),
        Ip::LOOPBACK_V6,
        v4(0, 0, 0, 0),
        Ip::NONE,
    ] {
        let dst = AddrPort::new(ip, 80);
        assert!(
            outbound_shortcut(false, true, &dst, &pod, &Ip::NONE) == Some(Verdict::Pass(Reason::Loopback)),
            "{:?}",
            ip.0
        );
    }
    let other = AddrPort::new(v4(128, 0, 0, 1), 80);
    assert!(outbound_shortcut(false, true, &other, &pod, &Ip::NONE).is_none());
}

#[test]
fn an_unknown_destination_passes_unless_the_registry_is_the_limit() {
    assert!(outbound_service(None, 0, true) == Some(Verdict::Pass(Reason::UnknownDestination)));
    assert!(
        outbound_service(None, workload_flags::REGISTRY_ONLY, true)
            == Some(Verdict::Deny(Reason::RegistryOnly))
    );
}

#[test]
fn without_an_agent_the_fail_mode_decides_and_closed_is_the_default() {
    let service = Service {
        id: 1,
        flags: service_flags::L7,
        backends: 1,
        total_weight: 1,
    };
    assert!(outbound_service(Some(&service), 0, true) == Some(Verdict::Proxy(Reason::NeedsBytes)));
    assert!(outbound_service(Some(&service), 0, false) == Some(Verdict::Deny(Reason::AgentGoneClosed)));
    assert!(
        outbound_service(Some(&service), workload_flags::FAIL_OPEN, false)
            == Some(Verdict::Pass(Reason::AgentGoneOpen))
    );
    for kind in [
        listener_kind::OUTBOUND,
        listener_kind::INBOUND,
        listener_kind::TUNNEL,
    ] {
        assert!(steer_without_listener(kind, 0) == Steer::Drop(Reason::AgentGoneClosed));
    }
}

#[test]
fn only_a_meshed_backend_of_another_node_needs_the_proxy_for_plain_tcp() {
    let mut backend = Backend {
        flags: backend_flags::LOCAL | backend_flags::MESH,
        ..Backend::default()
    };
    assert!(outbound_backend(Some(&backend), 0, true) == Verdict::Direct(Reason::Spliced));
    backend.flags = backend_flags::MESH;
    assert!(outbound_backend(Some(&backend), 0, true) == Verdict::Proxy(Reason::NeedsTls));
    backend.flags = 0;
    assert!(outbound_backend(Some(&backend), 0, true) == Verdict::Direct(Reason::Spliced));
    assert!(outbound_backend(None, 0, true) == Verdict::Deny(Reason::BackendMissing));
}

#[test]
fn strangers_never_reach_the_capture_ports() {
    let pod = v4(10, 0, 0, 1);
    for port in [
        maps::CAPTURE_PORT_BASE,
        maps::CAPTURE_PORT_BASE + maps::CAPTURE_PORTS - 1,
    ] {
        let mut facts = Inbound {
            local: AddrPort::new(pod, port),
            remote: AddrPort::new(v4(10, 0, 0, 2), 4000),
            direct: true,
            probe: true,
        };
        assert!(steer(&facts) == Steer::Drop(Reason::Stranger));
        facts.remote.ip = Ip::AGENT_V4;
        assert!(steer(&facts) == Steer::Drop(Reason::Stranger));
        facts.remote.ip = pod;
        assert!(steer(&facts) == Steer::Assign(listener_kind::OUTBOUND, Reason::CapturePort));
    }
}

#[test]
fn the_draw_covers_every_weight_and_never_leaves_the_range() {
    assert!(draw(0, 10) == 0);
    assert!(draw(u32::MAX, 10) == 9);
    let mut seen = [0u32; 4];
    for i in 0..4096u32 {
        seen[draw(i << 20, 4) as usize] += 1;
    }
    assert!(seen.iter().all(|n| *n == 1024));
}

#[test]
fn reasons_are_numbered_as_listed() {
    for (index, reason) in Reason::ALL.iter().enumerate() {
        assert!(*reason as usize == index);
    }
}
