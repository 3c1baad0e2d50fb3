//! Hosts that are no Kubernetes services: what ServiceEntries come to beside the services themselves.

use super::service::{Protocol, Service};
use super::visibility::Visibility;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// See the module's description.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Host → service that every client sees; `*.suffix` kept as `.suffix`.
    hosts: HashMap<Arc<str>, Arc<Service>>,
    /// Client namespace → as `hosts`, for what only some namespaces see. These come first.
    scoped: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Service>>>,
    /// CIDRs, the longest prefix first.
    cidrs: Vec<(IpNet, Arc<Service>)>,
    /// Port → service that takes every unknown address on it: TCP without addresses (T-82).
    ports: HashMap<u16, Arc<Service>>,
    /// Ports on which addresses that nobody knows go to the proxy: a Host header or SNI, a CIDR or the port itself says
    /// what they are.
    pub captured_ports: BTreeSet<u16>,
    /// Names that must be resolved for endpoints.
    pub names: BTreeSet<Arc<str>>,
}

impl Registry {
    /// Adds a host. The first that comes has it.
    ///
    /// # Errors
    /// The service that has the host already.
    pub fn add(&mut self, service: &Arc<Service>) -> Result<(), Arc<Service>> {
        let visibility = service.external.as_ref().map(|e| &e.visibility);
        let key: Arc<str> = match service.host.strip_prefix('*') {
            Some(suffix) => suffix.into(),
            None => Arc::clone(&service.host),
        };
        let mut holder = None;
        match visibility {
            None | Some(Visibility::All) => holder = claim(&mut self.hosts, &key, service),
            Some(Visibility::Namespaces(names)) => {
                for namespace in names {
                    let hosts = self.scoped.entry(Arc::clone(namespace)).or_default();
                    holder = claim(hosts, &key, service).or(holder);
                }
            }
        }
        self.add_addresses(service);
        holder.map_or(Ok(()), Err)
    }

    fn add_addresses(&mut self, service: &Arc<Service>) {
        let Some(external) = &service.external else { return };
        for net in &external.cidrs {
            self.cidrs.push((*net, Arc::clone(service)));
        }
        if !service.vips.is_empty() && !external.allocated {
            return;
        }
        for port in &service.ports {
            // Who resolves the name elsewhere comes with an address of its own; without a name in the bytes nobody could
            // tell what it is.
            if external.allocated && port.protocol == Protocol::Tcp {
                continue;
            }
            self.captured_ports.insert(port.number);
            if port.protocol == Protocol::Tcp && external.cidrs.is_empty() {
                self.ports
                    .entry(port.number)
                    .or_insert_with(|| Arc::clone(service));
            }
        }
    }

    /// To be called after the last [`Registry::add`].
    pub fn finish(&mut self) {
        self.cidrs
            .sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
    }

    /// The service of a host, exact before wildcard, the most specific wildcard first.
    #[must_use]
    pub fn by_host(&self, host: &str, client_namespace: Option<&str>) -> Option<&Arc<Service>> {
        let scoped = client_namespace.and_then(|ns| self.scoped.get(ns));
        scoped
            .into_iter()
            .chain([&self.hosts])
            .filter(|hosts| !hosts.is_empty())
            .find_map(|hosts| {
                hosts.get(host).or_else(|| {
                    host.char_indices()
                        .filter(|(_, c)| *c == '.')
                        .find_map(|(dot, _)| hosts.get(&host[dot..]))
                })
            })
    }

    /// Every service that has exactly this host, that which all clients see first.
    pub fn of_host(&self, host: &str) -> impl Iterator<Item = &Arc<Service>> {
        let everywhere = [&self.hosts].into_iter().chain(self.scoped.values());
        everywhere.filter_map(move |hosts| hosts.get(host))
    }

    /// The service that an address belongs to which is nobody's own: by CIDR, else by its port.
    #[must_use]
    pub fn by_address(&self, ip: IpAddr, port: u16, client_namespace: Option<&str>) -> Option<&Arc<Service>> {
        let fits = |s: &&Arc<Service>| s.port(port).is_some() && s.seen_from(client_namespace);
        self.cidrs
            .iter()
            .filter(|(net, _)| net.contains(&ip))
            .map(|(_, service)| service)
            .find(fits)
            .or_else(|| self.ports.get(&port).filter(fits))
    }
}

fn claim(
    hosts: &mut HashMap<Arc<str>, Arc<Service>>,
    host: &Arc<str>,
    service: &Arc<Service>,
) -> Option<Arc<Service>> {
    if let Some(holder) = hosts.get(host) {
        return Some(Arc::clone(holder));
    }
    hosts.insert(Arc::clone(host), Arc::clone(service));
    None
}
