//! A SOCKS5 server: lets a test, which is not in the pod's cgroup, hold sockets whose far end the pod has dialled.

use crate::say;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long, default_value = "127.0.0.1:1080")]
    listen: SocketAddr,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind(options.listen)?;
    say(&json!({"event": "listening", "address": listener.local_addr()?.to_string()}));
    loop {
        let (stream, _) = listener.accept()?;
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                say(&json!({"event": "error", "error": format!("{error:#}")}));
            }
        });
    }
}

fn serve(mut client: TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    let [_, methods] = read(&mut client)?;
    io::copy(&mut (&mut client).take(methods.into()), &mut io::sink())?;
    client.write_all(&[5, 0])?;
    let [version, command, _, family] = read(&mut client)?;
    ensure!((version, command) == (5, 1), "not a SOCKS5 CONNECT");
    let ip: IpAddr = match family {
        1 => read::<4>(&mut client)?.into(),
        4 => read::<16>(&mut client)?.into(),
        other => anyhow::bail!("address family {other}"),
    };
    let to = SocketAddr::new(ip, u16::from_be_bytes(read(&mut client)?));
    let dialled = TcpStream::connect_timeout(&to, Duration::from_secs(20));
    let code = if dialled.is_ok() { 0 } else { 5 };
    client.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let server = dialled.with_context(|| format!("dialling {to}"))?;
    server.set_nodelay(true)?;
    std::thread::scope(|scope| {
        scope.spawn(|| relay(&client, &server));
        relay(&server, &client);
    });
    Ok(())
}

fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Copies one direction and passes its end on; an error ends both.
fn relay(mut from: &TcpStream, mut to: &TcpStream) {
    let how = match io::copy(&mut from, &mut to) {
        Ok(_) => Shutdown::Write,
        Err(_) => {
            // Closed or not, nothing more comes of it.
            let _ = from.shutdown(Shutdown::Both);
            Shutdown::Both
        }
    };
    let _ = to.shutdown(how);
}
