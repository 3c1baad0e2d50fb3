use super::*;
use crate::model::snapshot::{MeshSettings, Snapshot};
use crate::state::State;
use crate::testing::{documents, list, state};
use proptest::prelude::*;

fn entry(name: &str, host: &str, created: u32, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: {name}, namespace: data, creationTimestamp: \"2026-01-01T00:00:{created:02}Z\"}}\n\
         spec: {{hosts: [{host}], ports: [{{number: 5432, name: tcp, protocol: TCP}}], {more}}}\n---\n"
    )
}

const STATIC: &str = "resolution: STATIC, endpoints: [{address: 192.0.2.1}]";

fn vips(snapshot: &Snapshot, host: &str) -> Vec<IpAddr> {
    let service = snapshot.registry.by_host(host, None).unwrap();
    service.vips.clone()
}

#[test]
fn a_host_without_an_address_has_the_same_one_in_every_process_and_another_one_than_its_neighbour() {
    let both = entry("a", "a.example.com", 0, STATIC) + &entry("b", "b.example.com", 1, STATIC);
    let snapshot = state(&both).snapshot();
    let (a, b) = (vips(&snapshot, "a.example.com"), vips(&snapshot, "b.example.com"));
    // Written down: another address after an upgrade would break connections that are kept by name caches.
    let expected: Vec<IpAddr> = vec![
        "240.240.147.161".parse().unwrap(),
        "2001:2::f0f0:93a1".parse().unwrap(),
    ];
    assert_eq!(a, expected);
    assert_ne!(a, b);
    let alone = state(&entry("b", "b.example.com", 1, STATIC)).snapshot();
    assert_eq!(vips(&alone, "b.example.com"), b);
    let holder = snapshot.services_by_vip.get(&a[0]).unwrap();
    assert_eq!(&*holder.host, "a.example.com");
}

#[test]
fn addresses_that_users_gave_ranges_and_what_is_reached_as_dialled_are_left_alone() {
    for (more, expected) in [
        (
            "resolution: STATIC, addresses: [203.0.113.1], endpoints: [{address: 192.0.2.1}]",
            1,
        ),
        ("resolution: NONE, addresses: [203.0.113.0/24]", 0),
        ("resolution: NONE", 0),
        ("resolution: DNS", 2),
        ("resolution: DNS_ROUND_ROBIN", 2),
    ] {
        let snapshot = state(&entry("a", "a.example.com", 0, more)).snapshot();
        assert_eq!(vips(&snapshot, "a.example.com").len(), expected, "{more}");
    }
}

#[test]
fn a_mesh_that_answers_no_names_gives_no_addresses() {
    let mut state = State::new(MeshSettings {
        capture_names: false,
        ..MeshSettings::default()
    });
    list(&mut state, &documents(&entry("a", "a.example.com", 0, STATIC)));
    assert!(vips(&state.snapshot(), "a.example.com").is_empty());
}

#[test]
fn a_port_of_bytes_without_a_name_takes_no_unknown_address_once_its_host_has_one_of_its_own() {
    let snapshot = state(&entry("a", "a.example.com", 0, STATIC)).snapshot();
    assert!(
        snapshot
            .registry
            .by_address([198, 51, 100, 1].into(), 5432, None)
            .is_none()
    );
    assert!(snapshot.registry.captured_ports.is_empty());
}

fn service(name: &ObjectName) -> Service {
    let snapshot = state(&entry("a", "a.example.com", 0, STATIC)).snapshot();
    let mut service = (**snapshot.registry.by_host("a.example.com", None).unwrap()).clone();
    service.name = name.clone();
    service.vips.clear();
    service
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn nobody_shares_an_address_and_who_is_older_keeps_it_when_others_come(count in 1_usize..400, given in 0_u32..PLACES) {
        let template = service(&ObjectName::new("data", "a"));
        let names: Vec<_> = (0..count).map(|i| ObjectName::new("data", format!("h{i}.example.com"))).collect();
        let all = |names: &[ObjectName]| {
            let mut services: BTreeMap<_, _> = names
                .iter()
                .map(|name| (name.clone(), Service { name: name.clone(), ..template.clone() }))
                .collect();
            allocate(names.iter(), &mut services, addresses(given).iter());
            services
        };
        let services = all(&names);
        let distinct: BTreeSet<_> = services.values().flat_map(|s| &s.vips).collect();
        prop_assert_eq!(distinct.len(), count * 2);
        prop_assert!(!distinct.contains(&addresses(given)[0]));
        let fewer = all(&names[..count / 2]);
        for (name, service) in &fewer {
            prop_assert_eq!(&service.vips, &services[name].vips);
        }
    }

    #[test]
    fn a_place_and_its_addresses_are_one(place in 0..PLACES) {
        for ip in addresses(place) {
            prop_assert_eq!(place_of(&ip), Some(place));
        }
    }
}
