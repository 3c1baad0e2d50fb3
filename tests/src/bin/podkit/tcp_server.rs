//! TCP servers: a thread per connection, blocking, as the simplest of applications.

use crate::say;
use anyhow::Result;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

#[derive(clap::Args)]
pub(crate) struct Echo {
    #[arg(long, default_value = "[::]:7000")]
    listen: SocketAddr,
    /// Listens on this many ports, from that of `listen` upwards.
    #[arg(long, default_value_t = 1)]
    ports: u16,
    /// Its name in answers.
    #[arg(long, default_value = "echo")]
    name: String,
    /// A line that it sends first, as SMTP and MySQL do.
    #[arg(long)]
    banner: Option<String>,
    /// Resets the connection after the first line.
    #[arg(long)]
    reset: bool,
}

#[derive(clap::Args)]
pub(crate) struct Record {
    #[arg(long, default_value = "[::]:8084")]
    listen: SocketAddr,
}

#[derive(clap::Args)]
pub(crate) struct Sink {
    #[arg(long, default_value = "[::]:7001")]
    listen: SocketAddr,
    /// Says a line and closes its half at once; what it counts goes to stdout.
    #[arg(long)]
    early: bool,
}

pub(crate) fn echo(options: &Echo) -> Result<()> {
    let handle = |stream, accepted| echo_one(options, stream, accepted);
    std::thread::scope(|scope| {
        for offset in 1..options.ports {
            let mut listen = options.listen;
            listen.set_port(listen.port() + offset);
            let listener = TcpListener::bind(listen)?;
            scope.spawn(move || accept(&listener, &handle));
        }
        serve(options.listen, handle)
    })
}

fn serve(listen: SocketAddr, handle: impl Fn(TcpStream, SocketAddr) -> Result<()> + Sync) -> Result<()> {
    let listener = TcpListener::bind(listen)?;
    say(&json!({"event": "listening", "address": listener.local_addr()?.to_string()}));
    accept(&listener, &handle)
}

fn accept(
    listener: &TcpListener,
    handle: &(impl Fn(TcpStream, SocketAddr) -> Result<()> + Sync),
) -> Result<()> {
    std::thread::scope(|scope| {
        loop {
            let (stream, accepted) = listener.accept()?;
            scope.spawn(move || {
                if let Err(error) = handle(stream, accepted) {
                    say(&json!({"event": "error", "peer": accepted.to_string(), "error": error.to_string()}));
                }
            });
        }
    })
}

fn echo_one(options: &Echo, stream: TcpStream, accepted: SocketAddr) -> Result<()> {
    let (peer, local) = (stream.peer_addr()?.to_string(), stream.local_addr()?.to_string());
    stream.set_nodelay(true)?;
    let seen = json!({"server": options.name, "accept": accepted.to_string(), "getpeername": peer, "getsockname": local});
    say(&json!({"event": "accept", "seen": seen}));
    let mut writer = stream.try_clone()?;
    if let Some(banner) = &options.banner {
        writeln!(writer, "{banner}")?;
    }
    let mut reader = BufReader::new(stream);
    let mut total = 0usize;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        total += length;
        if length == 0 {
            break;
        }
        if options.reset {
            socket2::SockRef::from(reader.get_ref()).set_linger(Some(std::time::Duration::ZERO))?;
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let answer = json!({"line": text.trim_end(), "seen": seen});
        writeln!(writer, "{answer}")?;
    }
    // The client's half is closed; ours is still open, and says so.
    writeln!(writer, "{}", json!({"eof": true, "bytes": total}))?;
    Ok(())
}

pub(crate) fn sink(options: &Sink) -> Result<()> {
    serve(options.listen, |mut stream, _| {
        if options.early {
            writeln!(stream, "{}", json!({"early": true}))?;
            stream.shutdown(std::net::Shutdown::Write)?;
        }
        let mut buffer = vec![0u8; 256 << 10];
        let mut total = 0u64;
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                length => total += length as u64,
            }
        }
        if options.early {
            say(&json!({"event": "total", "bytes": total}));
        } else {
            writeln!(stream, "{}", json!({"bytes": total}))?;
        }
        Ok(())
    })
}

/// Says every byte that comes, and answers an empty 200 for each end of a head in it.
pub(crate) fn record(options: &Record) -> Result<()> {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    serve(options.listen, |mut stream, accepted| {
        let connection = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut buffer = vec![0u8; 64 << 10];
        let mut seen = Vec::new();
        let mut answered = 0;
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            seen.extend_from_slice(&buffer[..length]);
            let text = buffer[..length].escape_ascii().to_string();
            say(
                &json!({"event": "bytes", "connection": connection, "peer": accepted.to_string(), "data": text}),
            );
            let heads = seen.windows(4).filter(|window| *window == b"\r\n\r\n").count();
            for _ in answered..heads {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
            }
            answered = heads;
        }
    })
}
