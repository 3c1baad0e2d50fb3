//! The client's side of SOCKS5: sockets whose far end a pod has dialled, through `podkit socks` or a mesh that has
//! such an entry itself.

use crate::netns::Netns;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// Connects to `to` through the SOCKS5 server `server` inside `netns`. Reads and writes give up after 20 s.
///
/// # Errors
/// The server is not there, or says that it cannot connect.
pub fn connect(netns: &Netns, server: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let mut stream = netns.run(|| Ok(TcpStream::connect(server)?))?;
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[5, 1, 0])?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen)?;
    ensure!(chosen == [5, 0], "the SOCKS server wants {chosen:?}");
    let mut request = vec![5, 1, 0];
    match to.ip() {
        IpAddr::V4(ip) => {
            request.push(1);
            request.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(4);
            request.extend(ip.octets());
        }
    }
    request.extend(to.port().to_be_bytes());
    stream.write_all(&request)?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).context("SOCKS reply")?;
    ensure!(reply[1] == 0, "connecting to {to}: SOCKS code {}", reply[1]);
    let mut bound = vec![0; if reply[3] == 4 { 18 } else { 6 }];
    stream.read_exact(&mut bound)?;
    Ok(stream)
}
