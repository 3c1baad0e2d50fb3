//! Heddle against the ztunnel of Istio's ambient mode, the one at one end of the tunnel and the other at the other.
//!
//! Runs when `HEDDLE_ZTUNNEL` names a ztunnel built with its feature `testing` and `HEDDLE_ZTUNNEL_CA` the folder
//! with its test CA (`src/tls` of its source); says so and passes otherwise.

#[path = "interop_ztunnel/stage.rs"]
mod stage;

use mesh_tests::eventually;
use mesh_tests::promtext;
use nix::sys::signal::Signal;
use stage::{Beliefs, ECHO, HTTP, Side, Stage, ztunnel};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// The stage with both sides right about each other, if there is a ztunnel.
fn stage() -> Option<Stage> {
    Some(Stage::start(&ztunnel()?, &Beliefs::default()).unwrap())
}

fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    Ok(String::from_utf8_lossy(&back).into_owned())
}

/// Whether a connection comes to nothing: refused, reset or closed before an answer.
fn is_refused(from: &Side, to: IpAddr, port: u16) -> bool {
    let Ok(mut stream) = from.connect(to, port) else {
        return true;
    };
    let mut byte = [0];
    // The writing may still succeed, into a socket whose far end is about to close.
    let _ = stream.write_all(b"x");
    match stream.read(&mut byte) {
        Ok(n) => n == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn bytes_and_both_half_closes_pass_in_both_families() {
    let Some(stage) = stage() else { return };
    for (way, from, to) in stage.directions() {
        for ip in to.ips() {
            let mut stream = from.connect(ip, ECHO).unwrap();
            assert_eq!(say(&mut stream, "hello").unwrap(), "hello", "{way} {ip}");
            stream.write_all(b"last").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "last", "{way} {ip}: what follows our half close");
        }
        assert!(stage.tunnels(&from).unwrap() > 0, "{way}: not through a tunnel");
    }
}
