//! Routes of Gateway API that are attached to Services (GAMMA, GEP-1294).

use super::route::RouteTable;
use std::sync::Arc;

/// What applies to clients that dial one service by its virtual address.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    /// Ports that have routes, by number.
    pub ports: Vec<AttachedPort>,
}

/// What applies to one port.
#[derive(Clone, Debug)]
pub struct AttachedPort {
    /// `port` of the service.
    pub number: u16,
    /// Routes of the service's own namespace: for every client but those below.
    pub producer: Option<Arc<RouteTable>>,
    /// Client namespaces with routes of their own, which replace the producer's; `None` where no route applies, because
    /// an older VirtualService routes the service for them. Sorted.
    pub consumers: Vec<(Arc<str>, Option<Arc<RouteTable>>)>,
}

impl Attached {
    /// The rules for a client of this namespace; a client that is not known is nobody's consumer.
    #[must_use]
    pub fn table(&self, port: u16, client_namespace: Option<&str>) -> Option<&Arc<RouteTable>> {
        let at = self.ports.binary_search_by_key(&port, |p| p.number).ok()?;
        let port = self.ports.get(at)?;
        let own = client_namespace.and_then(|client| {
            let at = port
                .consumers
                .binary_search_by(|(ns, _)| (**ns).cmp(client))
                .ok()?;
            port.consumers.get(at)
        });
        match own {
            Some((_, table)) => table.as_ref(),
            None => port.producer.as_ref(),
        }
    }
}
