//! Snapshot → plan.

use super::basis::{Basis, Exposure, Settings};
use super::{NodeFacts, Plan};
use crate::model::service::{Distribution, Endpoint, Service, ServicePort};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{FailMode, Workload};
use mesh_common::maps::{MAX_BACKENDS_PER_SERVICE, MAX_NODE_ADDRS, MAX_PROBE_PORTS, MAX_WORKLOADS};
use mesh_common::{
    AddrPort, Backend, BackendKey, Ip, LocalPod, PortKey, ServiceKey, backend_flags, service_flags,
    workload_flags,
};
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

pub(super) fn plan(snapshot: &Snapshot, facts: &NodeFacts, previous: &Plan) -> Plan {
    let settings = Settings {
        node: facts.node.clone(),
        l4_only: snapshot.l4_only.clone(),
        captured_ports: snapshot.registry.captured_ports.clone(),
    };
    // Who holds an address that two claim, and what does not fit, is decided over everything.
    if previous.refused.is_empty() && previous.basis.settings.as_ref() == Some(&settings) {
        let builder = Builder::new(snapshot, facts, previous, previous, &previous.basis);
        let plan = builder.plan(settings.clone());
        if plan.refused.is_empty() {
            return plan;
        }
    }
    let mut basis = Basis::default();
    basis.generations.extend(previous.services.values().map(|s| s.id));
    let nothing = Plan {
        last_generation: previous.last_generation,
        ..Plan::default()
    };
    Builder::new(snapshot, facts, previous, &nothing, &basis).plan(settings)
}

struct Builder<'a> {
    snapshot: &'a Snapshot,
    facts: &'a NodeFacts,
    /// What the kernel has.
    previous: &'a Plan,
    /// What `plan` began with was made from.
    old: &'a Basis,
    /// Generations of the previous plan and those given out since.
    taken: imbl::HashSet<u32>,
    /// Generations that left the plan, and those that came back.
    dropped: Vec<u32>,
    kept: HashSet<u32>,
    /// Backends under generations that the previous plan did not have.
    new_backends: usize,
    plan: Plan,
}

/// An entry of `SERVICES` before it has a generation.
struct Entry {
    flags: u32,
    backends: Vec<Backend>,
}

impl<'a> Builder<'a> {
    fn new(
        snapshot: &'a Snapshot,
        facts: &'a NodeFacts,
        previous: &'a Plan,
        start: &Plan,
        old: &'a Basis,
    ) -> Self {
        Self {
            snapshot,
            facts,
            previous,
            old,
            taken: old.generations.clone(),
            dropped: Vec::new(),
            kept: HashSet::new(),
            new_backends: 0,
            plan: Plan {
                services: start.services.clone(),
                backends: start.backends.clone(),
                last_generation: start.last_generation,
                ..Plan::default()
            },
        }
    }

    /// Follows what is different between the old basis and the snapshot: takes out every entry that may be different, then
    /// puts in what is wanted now.
    fn plan(mut self, settings: Settings) -> Plan {
        let mut exposures = self.old.exposures.clone();
        self.node_addrs();
        for workload in &self.snapshot.workloads {
            self.local_pod(workload);
        }
        if self.old.settings.is_none() {
            self.captured_ports();
        }
        let services = self.old.services(self.snapshot);
        let ips = self.old.addresses(self.snapshot);
        let mut touched = BTreeSet::new();
        for (old, new) in &services {
            old.iter()
                .flat_map(|s| &s.ports)
                .for_each(|p| exposures.expose(p, false, &mut touched));
            new.iter()
                .flat_map(|s| &s.ports)
                .for_each(|p| exposures.expose(p, true, &mut touched));
            old.iter().for_each(|s| self.remove_virtual_addresses(s));
        }
        for ip in &ips {
            touched.extend(exposures.exposed(*ip));
            self.remove_pod_entry(&AddrPort::new((*ip).into(), 0));
        }
        touched
            .iter()
            .for_each(|addr| self.remove_pod_entry(&(*addr).into()));
        services
            .iter()
            .for_each(|(_, new)| new.iter().for_each(|s| self.virtual_addresses(s)));
        ips.iter().for_each(|ip| self.pod_address(*ip));
        touched
            .iter()
            .for_each(|addr| self.opaque_pod_port(*addr, exposures.of(*addr)));
        for id in self.dropped.iter().filter(|id| !self.kept.contains(id)) {
            self.taken.remove(id);
        }
        self.plan.basis = Basis {
            settings: Some(settings),
            workloads: self.snapshot.workloads.clone(),
            remotes: self.snapshot.remotes.clone(),
            services: self.snapshot.services.clone(),
            steered: self.snapshot.steered.clone(),
            exposures,
            generations: self.taken,
        };
        self.plan
    }

    /// Ports on which unknown addresses go to the proxy. Part of the settings: a change of them builds everything anew.
    fn captured_ports(&mut self) {
        for port in &self.snapshot.registry.captured_ports {
            let entry = Entry {
                flags: service_flags::L7,
                backends: Vec::new(),
            };
            self.add(AddrPort::new(Ip::NONE, *port), entry, || {
                format!("any address with port {port}")
            });
        }
    }

    fn node_addrs(&mut self) {
        for addr in &self.facts.addrs {
            let ip = addr.to_canonical().into();
            if self.plan.node_addrs.len() < MAX_NODE_ADDRS as usize || self.plan.node_addrs.contains(&ip) {
                self.plan.node_addrs.insert(ip);
            } else {
                self.plan
                    .refused
                    .push(format!("node address {addr}: NODE_ADDRS holds {MAX_NODE_ADDRS}"));
            }
        }
    }

    /// `WORKLOADS`, `LOCAL_PODS` and `PROBE_PORTS` of a captured pod.
    fn local_pod(&mut self, workload: &Workload) {
        let Some(cookie) = self.facts.captured.get(&workload.id) else {
            return;
        };
        if !workload.enrolled() {
            return;
        }
        let fits = self.plan.workloads.len() < MAX_WORKLOADS as usize
            && self.plan.probe_ports.len() + workload.probe_ports.len() <= MAX_PROBE_PORTS as usize;
        if !fits {
            self.plan
                .refused
                .push(format!("pod {}: WORKLOADS holds {MAX_WORKLOADS}", workload.pod));
            return;
        }
        let mut flags = 0;
        if workload.fail_mode == FailMode::Open {
            flags |= workload_flags::FAIL_OPEN;
        }
        if self.snapshot.registry_only(Some(workload)) {
            flags |= workload_flags::REGISTRY_ONLY;
        }
        if self
            .snapshot
            .scope_of(workload)
            .is_some_and(|scope| scope.hosts.is_some())
        {
            flags |= workload_flags::SCOPED;
        }
        if self.snapshot.settings.capture_names && !workload.resolves_itself {
            flags |= workload_flags::NAMES;
        }
        let of_family = |v4: bool| {
            workload
                .ips
                .iter()
                .find(|ip| ip.is_ipv4() == v4)
                .map_or(Ip::NONE, |ip| Ip::from(*ip))
        };
        let entry = mesh_common::Workload {
            id: workload.id,
            flags,
            ip4: of_family(true),
            ip6: of_family(false),
        };
        self.plan.workloads.insert(*cookie, entry);
        for ip in &workload.ips {
            self.plan.local_pods.insert(
                (*ip).into(),
                LocalPod {
                    id: workload.id,
                    flags,
                    cookie: *cookie,
                },
            );
        }
        for port in &workload.probe_ports {
            self.plan.probe_ports.insert(PortKey {
                workload: workload.id,
                port: u32::from(*port),
            });
        }
    }

    fn virtual_addresses(&mut self, service: &Service) {
        for vip in &service.vips {
            for port in &service.ports {
                let entry = self.service_entry(service, port, vip.is_ipv4());
                let key = AddrPort::new((*vip).into(), port.number);
                self.add(key, entry, || {
                    format!("service {} {}", service.name, SocketAddr::new(*vip, port.number))
                });
            }
        }
    }

    fn service_entry(&self, service: &Service, port: &ServicePort, v4: bool) -> Entry {
        if port.endpoints.is_empty() && !service.keeps_address() {
            // A route may still lead elsewhere, and the answer of a service that speaks HTTP is a 503.
            let inspected = if port.protocol.needs_bytes() || self.snapshot.steered.contains(&port.id) {
                service_flags::L7
            } else {
                0
            };
            return Entry {
                flags: service_flags::EMPTY | inspected,
                backends: Vec::new(),
            };
        }
        let same_family: Vec<_> = port.endpoints.iter().filter(|e| e.addr.is_ipv4() == v4).collect();
        let kernel_can = !port.protocol.needs_bytes()
            && service.distribution == Distribution::Any
            && !self.snapshot.steered.contains(&port.id)
            && !service.keeps_address()
            && !same_family.is_empty()
            && same_family.len() <= MAX_BACKENDS_PER_SERVICE as usize;
        if !kernel_can {
            return Entry {
                flags: service_flags::L7,
                backends: Vec::new(),
            };
        }
        let mut sum = 0_u32;
        let backend = |endpoint: &&std::sync::Arc<Endpoint>| {
            sum = sum.saturating_add(endpoint.weight);
            self.backend(endpoint, sum)
        };
        let backends = same_family.iter().map(backend).collect();
        Entry { flags: 0, backends }
    }

    fn backend(&self, endpoint: &Endpoint, cumulative_weight: u32) -> Backend {
        let workload = endpoint.workload.as_deref();
        Backend {
            ip: endpoint.addr.ip().into(),
            port: endpoint.addr.port(),
            pad: 0,
            flags: workload.map_or(0, |w| self.backend_flags(w)),
            cumulative_weight,
        }
    }

    fn backend_flags(&self, workload: &Workload) -> u32 {
        let mut flags = 0;
        if *workload.node == *self.facts.node {
            flags |= backend_flags::LOCAL;
        }
        if workload.enrolled() {
            flags |= backend_flags::MESH;
        }
        flags
    }

    fn remove_virtual_addresses(&mut self, service: &Service) {
        for vip in &service.vips {
            for port in &service.ports {
                self.remove(&AddrPort::new((*vip).into(), port.number));
            }
        }
    }

    fn remove_pod_entry(&mut self, key: &ServiceKey) {
        let of_pod = |s: &mesh_common::Service| s.flags & service_flags::POD != 0;
        if self.plan.services.get(key).is_some_and(of_pod) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &ServiceKey) {
        let Some(gone) = self.plan.services.remove(key) else {
            return;
        };
        for slot in 0..gone.backends {
            self.plan.backends.remove(&BackendKey {
                service: gone.id,
                slot,
            });
        }
        self.dropped.push(gone.id);
    }

    /// The enrolled pod that has an address.
    fn holder(&self, ip: IpAddr) -> Option<&'a Workload> {
        let workload = self.snapshot.workload_by_ip(ip)?;
        workload.enrolled().then_some(workload)
    }

    /// Every port of an enrolled pod, dialled by the pod's own address.
    fn pod_address(&mut self, ip: IpAddr) {
        let Some(workload) = self.holder(ip) else { return };
        let entry = if self.snapshot.l4_only.contains(&workload.pod.namespace) {
            self.itself(SocketAddr::new(ip, 0), workload)
        } else {
            Entry {
                flags: service_flags::POD | service_flags::L7,
                backends: Vec::new(),
            }
        };
        self.add(AddrPort::new(ip.into(), 0), entry, || {
            format!("pod {} {ip}", workload.pod)
        });
    }

    /// A port of an enrolled pod that a service declares opaque. A port that two services see differently goes to the
    /// proxy, which can do both.
    fn opaque_pod_port(&mut self, addr: SocketAddr, exposure: Exposure) {
        let Some(workload) = self.holder(addr.ip()) else {
            return;
        };
        let whole_pod_is_opaque = self
            .plan
            .services
            .get(&AddrPort::new(addr.ip().into(), 0))
            .is_some_and(|s| s.flags == service_flags::POD);
        if exposure.opaque == 0 || exposure.inspected > 0 || whole_pod_is_opaque {
            return;
        }
        let entry = self.itself(addr, workload);
        self.add(addr.into(), entry, || format!("pod {} {addr}", workload.pod));
    }

    fn itself(&self, addr: SocketAddr, workload: &Workload) -> Entry {
        let backend = Backend {
            ip: addr.ip().into(),
            port: addr.port(),
            pad: 0,
            flags: self.backend_flags(workload),
            cumulative_weight: 1,
        };
        Entry {
            flags: service_flags::POD,
            backends: vec![backend],
        }
    }

    /// Puts an entry under a generation of its own.
    fn add(&mut self, key: ServiceKey, entry: Entry, name: impl Fn() -> String) {
        if self.plan.services.contains_key(&key) {
            self.plan
                .refused
                .push(format!("{}: another object has this address", name()));
            return;
        }
        let limits = self.facts.limits;
        if self.plan.services.len() >= limits.services as usize {
            self.plan
                .refused
                .push(format!("{}: SERVICES holds {}", name(), limits.services));
            return;
        }
        let Entry {
            mut flags,
            mut backends,
        } = entry;
        let as_service = |flags: u32, backends: &[Backend]| {
            let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
            mesh_common::Service {
                id: 0,
                flags,
                backends: count,
                total_weight: backends.last().map_or(0, |last| last.cumulative_weight),
            }
        };
        let mut kept = self.kept(&key, &as_service(flags, &backends), &backends);
        // The old generations go only after the new ones are there: both must fit.
        let held = self.previous.backends.len() + self.new_backends;
        if kept.is_none() && held + backends.len() > limits.backends as usize {
            self.plan.refused.push(format!(
                "{}: BACKENDS holds {}; the proxy serves it",
                name(),
                limits.backends
            ));
            flags |= service_flags::L7;
            backends.clear();
            kept = self.kept(&key, &as_service(flags, &backends), &backends);
        }
        let mut service = as_service(flags, &backends);
        self.kept.extend(kept);
        service.id = kept.unwrap_or_else(|| {
            self.new_backends += backends.len();
            self.next_generation()
        });
        for (slot, backend) in (0..service.backends).zip(backends) {
            self.plan.backends.insert(
                BackendKey {
                    service: service.id,
                    slot,
                },
                backend,
            );
        }
        self.plan.services.insert(key, service);
    }

    /// The generation of the previous plan, if nothing is different.
    fn kept(&self, key: &ServiceKey, wanted: &mesh_common::Service, backends: &[Backend]) -> Option<u32> {
        let old = self.previous.services.get(key)?;
        let same = |(slot, backend): (u32, &Backend)| {
            self.previous.backends.get(&BackendKey {
                service: old.id,
                slot,
            }) == Some(backend)
        };
        let equal = mesh_common::Service {
            id: old.id,
            ..*wanted
        } == *old
            && (0..).zip(backends).all(same);
        equal.then_some(old.id)
    }

    fn next_generation(&mut self) -> u32 {
        loop {
            self.plan.last_generation = self.plan.last_generation.wrapping_add(1).max(1);
            if self.taken.insert(self.plan.last_generation).is_none() {
                return self.plan.last_generation;
            }
        }
    }
}
