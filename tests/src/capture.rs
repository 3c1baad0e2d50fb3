//! A sniffer on a node's device: what TCP carried there, by port, and whether given bytes were among it.

use crate::netns::Netns;
use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Payload kept per direction of a connection; what is beyond is counted only.
const KEPT_PER_FLOW: usize = 4 << 20;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

/// What has been captured.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// TCP payload by source and destination, in order of arrival.
    pub flows: BTreeMap<(SocketAddr, SocketAddr), Vec<u8>>,
    /// Bytes of TCP payload, kept or not, by the lower of the two ports.
    pub bytes_by_port: BTreeMap<u16, u64>,
    /// Frames that were not TCP.
    pub other_frames: u64,
    /// TCP segments.
    pub segments: u64,
}

impl Seen {
    /// Flows whose payload has `needle` in it, also across segments.
    #[must_use]
    pub fn with(&self, needle: &[u8]) -> Vec<(SocketAddr, SocketAddr)> {
        let has = |payload: &[u8]| payload.windows(needle.len()).any(|window| window == needle);
        self.flows
            .iter()
            .filter(|(_, payload)| has(payload))
            .map(|(flow, _)| *flow)
            .collect()
    }

    /// Bytes of payload on connections with `port` at either end.
    #[must_use]
    pub fn bytes_on(&self, port: u16) -> u64 {
        let on = |(from, to): &(SocketAddr, SocketAddr)| from.port() == port || to.port() == port;
        self.flows
            .iter()
            .filter(|(flow, _)| on(flow))
            .map(|(_, payload)| payload.len() as u64)
            .sum()
    }

    /// Bytes of payload in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_by_port.values().sum()
    }
}

impl Capture {
    /// Starts to capture on `device` inside `netns`.
    ///
    /// # Errors
    /// Packet sockets need CAP_NET_RAW; the device must exist.
    pub fn start(netns: &Netns, device: &str) -> Result<Self> {
        let socket = netns.run(|| packet_socket(device))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let thread = std::thread::Builder::new().name("capture".into()).spawn({
            let (stop, seen) = (stop.clone(), seen.clone());
            move || receive(socket, &stop, &seen)
        })?;
        Ok(Self {
            stop,
            seen,
            thread: Some(thread),
        })
    }

    /// A copy of what was captured so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what was captured so far.
    pub fn clear(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn packet_socket(device: &str) -> Result<Socket> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(all))))
        .context("packet socket (CAP_NET_RAW)")?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    socket.set_recv_buffer_size(8 << 20)?;
    let index = nix::net::if_::if_nametoindex(device).with_context(|| format!("device {device}"))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a valid view of the zeroed storage, which is larger and as strictly aligned.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = all;
    link.sll_ifindex = index.cast_signed();
    // SAFETY: the storage holds a sockaddr_ll and the length says so.
    let address = unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    socket.bind(&address)?;
    Ok(socket)
}

fn receive(mut socket: Socket, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let mut frame = vec![0u8; 256 << 10];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut frame) else {
            continue;
        };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((from, to, payload)) = tcp_payload(&frame[..length]) else {
            seen.other_frames += 1;
            continue;
        };
        seen.segments += 1;
        *seen.bytes_by_port.entry(from.port().min(to.port())).or_default() += payload.len() as u64;
        let kept = seen.flows.entry((from, to)).or_default();
        let room = KEPT_PER_FLOW.saturating_sub(kept.len());
        kept.extend_from_slice(&payload[..payload.len().min(room)]);
    }
}

/// Addresses and payload of an Ethernet frame that carries TCP.
fn tcp_payload(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let packet = frame.get(14..)?;
    let (from, to, segment): (IpAddr, IpAddr, &[u8]) = match frame.get(12..14)? {
        [0x08, 0x00] if *packet.get(9)? == 6 => {
            let header = usize::from(packet[0] & 0xf) * 4;
            let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
            let from = <[u8; 4]>::try_from(packet.get(12..16)?).ok()?;
            let to = <[u8; 4]>::try_from(packet.get(16..20)?).ok()?;
            // Short frames are padded; a length of 0 is a large segment that was never split.
            let end = if total == 0 {
                packet.len()
            } else {
                total.min(packet.len())
            };
            (
                Ipv4Addr::from(from).into(),
                Ipv4Addr::from(to).into(),
                packet.get(header..end)?,
            )
        }
        [0x86, 0xdd] if *packet.get(6)? == 6 => {
            let from = <[u8; 16]>::try_from(packet.get(8..24)?).ok()?;
            let to = <[u8; 16]>::try_from(packet.get(24..40)?).ok()?;
            (
                Ipv6Addr::from(from).into(),
                Ipv6Addr::from(to).into(),
                packet.get(40..)?,
            )
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
    let header = usize::from(segment.get(12)? >> 4) * 4;
    Some((
        SocketAddr::new(from, port(0)?),
        SocketAddr::new(to, port(2)?),
        segment.get(header..)?,
    ))
}
