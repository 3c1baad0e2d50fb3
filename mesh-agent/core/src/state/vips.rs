//! Addresses of hosts that have none: ServiceEntries of resolution STATIC or DNS without `addresses`.
//!
//! The ranges are Istio's. Every agent comes to the same address without asking another: a hash of namespace and host says
//! where to look first, and the first free place from there on is taken, the oldest ServiceEntry first. So an address stays
//! over restarts, and as long as no older host that hashed to the same place comes or goes.

use crate::model::ObjectName;
use crate::model::service::{External, Resolution, Service};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// 240.240.0.0/16 without .0 and .255 of each /24, which look like a network or a broadcast to some.
const PLACES: u32 = 256 * PLACES_PER_24;
const PLACES_PER_24: u32 = 254;

/// Gives addresses to the services that `oldest_first` names and that have none. `given` are addresses that users chose.
pub(super) fn allocate<'a>(
    oldest_first: impl Iterator<Item = &'a ObjectName>,
    services: &mut BTreeMap<ObjectName, Service>,
    given: impl Iterator<Item = &'a IpAddr>,
) {
    let mut taken: BTreeSet<u32> = given.filter_map(place_of).collect();
    for name in oldest_first {
        let Some(service) = services.get_mut(name).filter(|s| wants(s)) else {
            continue;
        };
        let first = hash(name) % PLACES;
        let free = (0..PLACES)
            .map(|step| (first + step) % PLACES)
            .find(|place| !taken.contains(place));
        // Beyond 65,024 hosts: they stay without, as if names were not captured.
        let (Some(place), Some(external)) = (free, &service.external) else {
            continue;
        };
        taken.insert(place);
        let mut external = (**external).clone();
        external.allocated = true;
        service.external = Some(Arc::new(external));
        service.vips = addresses(place).to_vec();
    }
}

/// Where the address that was dialled is the one to reach, another one would lead nowhere.
fn wants(service: &Service) -> bool {
    let elsewhere = |e: &Arc<External>| e.resolution != Resolution::Original && e.cidrs.is_empty();
    service.vips.is_empty() && service.external.as_ref().is_some_and(elsewhere)
}

fn addresses(place: u32) -> [IpAddr; 2] {
    let [.., high, low] = (place / PLACES_PER_24 * 256 + place % PLACES_PER_24 + 1).to_be_bytes();
    [
        Ipv4Addr::new(240, 240, high, low).into(),
        Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0xf0f0, u16::from_be_bytes([high, low])).into(),
    ]
}

/// The reverse of [`addresses`].
fn place_of(ip: &IpAddr) -> Option<u32> {
    let (high, low) = match ip {
        IpAddr::V4(v4) => match v4.octets() {
            [240, 240, high, low] => (high, low),
            _ => return None,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0x2001, 2, 0, 0, 0, 0, 0xf0f0, last] => (last.to_be_bytes()[0], last.to_be_bytes()[1]),
            _ => return None,
        },
    };
    let low = u32::from(low).checked_sub(1).filter(|low| *low < PLACES_PER_24)?;
    Some(u32::from(high) * PLACES_PER_24 + low)
}

/// FNV-1a (32 bit) over `namespace/host`: the same in every version, unlike the standard library's.
fn hash(name: &ObjectName) -> u32 {
    let bytes = name.namespace.bytes().chain([b'/']).chain(name.name.bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests;
