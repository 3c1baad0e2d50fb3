//! TCP clients that say exactly what the socket calls of an application answered.

use crate::say;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Connect {
    #[arg(long)]
    to: SocketAddr,
    /// Binds to this address (`IP` or `IP:PORT`) first.
    #[arg(long)]
    bind: Option<String>,
    /// Makes the socket non-blocking before connect, and polls.
    #[arg(long)]
    nonblocking: bool,
    /// Dials an IPv4 address as `::ffff:a.b.c.d` on an IPv6 socket.
    #[arg(long)]
    v4_mapped: bool,
    /// Binds to this device first (`SO_BINDTODEVICE`).
    #[arg(long)]
    device: Option<String>,
    /// Sends the line by the first packet where the server allows it (`TCP_FASTOPEN_CONNECT`).
    #[arg(long)]
    fast_open: bool,
    /// Asks for Multipath TCP; the reply's `mptcp` says whether the kernel has it.
    #[arg(long)]
    mptcp: bool,
    /// The line to send; empty for none, as clients of server-first protocols.
    #[arg(long, default_value = "hello")]
    send: String,
    /// Closes the writing half after the line and reads to the end.
    #[arg(long)]
    half_close: bool,
    /// Reads to the end before it sends.
    #[arg(long)]
    read_first: bool,
    /// Resets the connection after the first answer.
    #[arg(long)]
    reset: bool,
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

#[derive(clap::Args)]
pub(crate) struct Raw {
    #[arg(long)]
    to: SocketAddr,
    /// What to send, with the escapes `\r \n \0 \\ \xNN`; repeated parts are sent 100 ms apart.
    #[arg(long)]
    data: Vec<String>,
    /// Closes the writing half afterwards.
    #[arg(long)]
    half_close: bool,
    /// Reads until the other side is silent for this long or closes.
    #[arg(long, default_value_t = 500)]
    silence_ms: u64,
}

#[derive(clap::Args)]
pub(crate) struct Chat {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 10)]
    interval_ms: u64,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(clap::Args)]
pub(crate) struct Stream {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Bytes of one write.
    #[arg(long, default_value_t = 131_072)]
    chunk: usize,
    /// Ends each connection after this many bytes, in place of after a time.
    #[arg(long)]
    bytes: Option<u64>,
}

#[derive(clap::Args)]
pub(crate) struct Hold {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// The connections go to this many ports in turn, from that of `to` upwards.
    #[arg(long, default_value_t = 1)]
    ports: u16,
    /// One HTTP/1.1 request on each, for this host, so that a proxy dials upstream.
    #[arg(long)]
    host: Option<String>,
    /// Its path.
    #[arg(long, default_value = "/")]
    path: String,
}

pub(crate) fn connect(options: &Connect) -> Result<()> {
    let start = Instant::now();
    let mut report = json!({"ok": false, "to": options.to.to_string()});
    if let Err((stage, error)) = try_connect(options, &mut report) {
        report["stage"] = json!(stage);
        report["error"] = json!(error.to_string());
        report["errno"] = json!(error.raw_os_error());
        report["errno_name"] = json!(
            error
                .raw_os_error()
                .map(|number| format!("{:?}", nix::errno::Errno::from_raw(number)))
        );
    }
    report["elapsed_us"] = json!(u64::try_from(start.elapsed().as_micros())?);
    say(&report);
    Ok(())
}

type Staged<T> = Result<T, (&'static str, std::io::Error)>;

fn at(stage: &'static str) -> impl Fn(std::io::Error) -> (&'static str, std::io::Error) {
    move |error| (stage, error)
}

fn try_connect(options: &Connect, report: &mut Value) -> Staged<()> {
    let to = match options.to {
        SocketAddr::V4(v4) if options.v4_mapped => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        other => other,
    };
    let protocol = options.mptcp.then_some(Protocol::MPTCP);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, protocol).map_err(at("socket"))?;
    if let Some(device) = &options.device {
        socket
            .bind_device(Some(device.as_bytes()))
            .map_err(at("device"))?;
    }
    if options.fast_open {
        set_fast_open(&socket).map_err(at("fast-open"))?;
    }
    if let Some(bind) = &options.bind {
        let address = bind
            .parse::<SocketAddr>()
            .or_else(|_| bind.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)))
            .map_err(|error| ("bind", std::io::Error::other(error.to_string())))?;
        socket.set_reuse_address(true).map_err(at("bind"))?;
        socket.bind(&SockAddr::from(address)).map_err(at("bind"))?;
    }
    let limit = Duration::from_millis(options.timeout_ms);
    if options.nonblocking {
        socket.set_nonblocking(true).map_err(at("connect"))?;
        finish_nonblocking(&socket, to, limit, report).map_err(at("connect"))?;
        socket.set_nonblocking(false).map_err(at("connect"))?;
    } else {
        socket.set_write_timeout(Some(limit)).map_err(at("connect"))?;
        socket.connect(&to.into()).map_err(at("connect"))?;
    }
    let stream = TcpStream::from(socket);
    report["getsockname"] = json!(stream.local_addr().map_err(at("getsockname"))?.to_string());
    report["getpeername"] = json!(stream.peer_addr().map_err(at("getpeername"))?.to_string());
    stream.set_read_timeout(Some(limit)).map_err(at("read"))?;
    talk(options, &stream, report)?;
    report["ok"] = json!(true);
    Ok(())
}

fn set_fast_open(socket: &Socket) -> std::io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: a valid descriptor and a pointer to an int of the length given.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN_CONNECT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

fn finish_nonblocking(
    socket: &Socket,
    to: SocketAddr,
    limit: Duration,
    report: &mut Value,
) -> std::io::Result<()> {
    match socket.connect(&to.into()) {
        Ok(()) => report["connect_returned"] = json!(0),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            report["connect_returned"] = json!("EINPROGRESS");
            let mut polled = [nix::poll::PollFd::new(
                socket.as_fd(),
                nix::poll::PollFlags::POLLOUT,
            )];
            let timeout = nix::poll::PollTimeout::try_from(limit).unwrap_or(nix::poll::PollTimeout::MAX);
            if nix::poll::poll(&mut polled, timeout)? == 0 {
                return Err(std::io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn talk(options: &Connect, mut stream: &TcpStream, report: &mut Value) -> Staged<()> {
    if options.read_first {
        let mut first = String::new();
        BufReader::new(stream)
            .read_to_string(&mut first)
            .map_err(at("read"))?;
        report["first"] = json!(first.trim_end());
    }
    if !options.send.is_empty() {
        writeln!(stream, "{}", options.send).map_err(at("write"))?;
    }
    if options.half_close {
        stream.shutdown(Shutdown::Write).map_err(at("shutdown"))?;
    }
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let length = reader.read_line(&mut line).map_err(at("read"))?;
        if length > 0 {
            lines.push(serde_json::from_str(&line).unwrap_or_else(|_| json!(line.trim_end())));
        }
        if length == 0 || !options.half_close {
            break;
        }
    }
    if options.reset {
        socket2::SockRef::from(stream)
            .set_linger(Some(Duration::ZERO))
            .map_err(at("reset"))?;
    }
    report["reply"] = lines.first().cloned().unwrap_or(Value::Null);
    report["replies"] = Value::Array(lines);
    Ok(())
}

pub(crate) fn raw(options: &Raw) -> Result<()> {
    let mut report = json!({"ok": false});
    match send_raw(options) {
        Ok((reply, closed)) => {
            report["ok"] = json!(true);
            report["closed"] = json!(closed);
            report["bytes"] = json!(reply.len());
            report["reply"] = json!(String::from_utf8_lossy(&reply[..reply.len().min(65_536)]));
        }
        Err(error) => report["error"] = json!(format!("{error:#}")),
    }
    say(&report);
    Ok(())
}

fn send_raw(options: &Raw) -> Result<(Vec<u8>, String)> {
    let mut stream = TcpStream::connect_timeout(&options.to, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    for (index, part) in options.data.iter().enumerate() {
        if index > 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
        stream.write_all(&unescape(part)?)?;
    }
    if options.half_close {
        stream.shutdown(Shutdown::Write)?;
    }
    stream.set_read_timeout(Some(Duration::from_millis(options.silence_ms)))?;
    let mut reply = Vec::new();
    let mut buffer = [0u8; 16_384];
    let closed = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break "eof".to_owned(),
            Ok(length) => reply.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break "open".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    Ok((reply, closed))
}

fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().context("a backslash at the end")? {
            b'r' => b'\r',
            b'n' => b'\n',
            b'0' => 0,
            b'x' => {
                let digits = [rest.next().context("\\x")?, rest.next().context("\\x")?];
                u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?
            }
            other => other,
        });
    }
    Ok(bytes)
}

pub(crate) fn chat(options: &Chat) -> Result<()> {
    let start = Instant::now();
    let limit = Duration::from_secs_f64(options.seconds);
    let mut report = json!({});
    let (mut rounds, mut longest) = (0u64, Duration::ZERO);
    let result = (|| -> Result<()> {
        let mut stream = TcpStream::connect_timeout(&options.to, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while start.elapsed() < limit {
            let sent = Instant::now();
            writeln!(stream, "{rounds}")?;
            line.clear();
            anyhow::ensure!(reader.read_line(&mut line)? > 0, "closed by the other side");
            rounds += 1;
            longest = longest.max(sent.elapsed());
            std::thread::sleep(Duration::from_millis(options.interval_ms));
        }
        Ok(())
    })();
    report["ok"] = json!(result.is_ok());
    report["error"] = json!(result.err().map(|error| format!("{error:#}")));
    report["rounds"] = json!(rounds);
    report["longest_ms"] = json!(longest.as_secs_f64() * 1e3);
    say(&report);
    Ok(())
}

pub(crate) fn stream(options: &Stream) -> Result<()> {
    let start = Instant::now();
    let limit = Duration::from_secs_f64(options.seconds);
    let one = || -> Result<u64> {
        let mut stream = TcpStream::connect_timeout(&options.to, Duration::from_secs(5))?;
        let chunk = vec![0x5au8; options.chunk];
        let mut left = options.bytes.unwrap_or(u64::MAX);
        while left > 0 && (options.bytes.is_some() || start.elapsed() < limit) {
            let length = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            stream.write_all(&chunk[..length])?;
            left -= length as u64;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        let answer: Value = serde_json::from_str(&answer).context("the sink's count")?;
        answer["bytes"].as_u64().context("the sink's count")
    };
    let results: Vec<Result<u64>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.connections).map(|_| scope.spawn(one)).collect();
        workers
            .into_iter()
            .map(|w| w.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panic"))))
            .collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let bytes: u64 = results.iter().filter_map(|result| result.as_ref().ok()).sum();
    let errors: Vec<String> = results
        .iter()
        .filter_map(|r| r.as_ref().err())
        .map(|e| format!("{e:#}"))
        .collect();
    let gbps = bytes as f64 * 8.0 / seconds / 1e9;
    say(
        &json!({"ok": errors.is_empty(), "bytes": bytes, "seconds": seconds, "gbps": gbps, "errors": errors}),
    );
    Ok(())
}

pub(crate) fn hold(options: &Hold) -> Result<()> {
    let mut held = Vec::new();
    let mut errors = Vec::new();
    for index in 0..options.connections {
        let mut to = options.to;
        to.set_port(to.port() + u16::try_from(index % usize::from(options.ports))?);
        match hold_one(options, to) {
            Ok(stream) => held.push(stream),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    say(
        &json!({"event": "listening", "held": held.len(), "failed": errors.len(), "first_error": errors.first()}),
    );
    std::thread::sleep(Duration::from_secs_f64(options.seconds));
    say(&json!({"ok": errors.is_empty(), "held": held.len()}));
    Ok(())
}

fn hold_one(options: &Hold, to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    if let Some(host) = &options.host {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {} HTTP/1.1\r\nhost: {host}\r\n\r\n", options.path)?;
        let mut buffer = [0u8; 4096];
        anyhow::ensure!(stream.read(&mut buffer)? > 0, "closed without an answer");
    }
    Ok(stream)
}
