//! What a test does inside a pod: servers, clients and load, as a process of the pod. Every answer is JSON on stdout,
//! one object a line.

mod dns_client;
mod dns_server;
mod get;
mod grpc;
mod hbone;
mod http_server;
mod load;
mod socks;
mod tcp_client;
mod tcp_server;

use clap::{Parser, Subcommand};
use serde_json::Value;
use std::io::Write;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "podkit", about = "Acts inside a pod for Heddle's tests")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// TCP server: answers every line with the addresses that it sees, and ends with a summary after half-close.
    EchoServer(tcp_server::Echo),
    /// TCP server that counts what it gets and answers the count after half-close.
    Sink(tcp_server::Sink),
    /// HTTP/1.1 server that says every byte it gets and answers 200 to each head.
    RecordServer(tcp_server::Record),
    /// HTTP/1.1 and HTTP/2 (prior knowledge) server that echoes what it was asked.
    HttpServer(http_server::Options),
    /// Connects and reports addresses, errors and the reply.
    Connect(tcp_client::Connect),
    /// Sends raw bytes and reports what comes back.
    Raw(tcp_client::Raw),
    /// One long connection with a numbered line every interval: reports the longest gap.
    Chat(tcp_client::Chat),
    /// Bulk transfer to a `sink`: Gbit/s.
    Stream(tcp_client::Stream),
    /// Opens connections and holds them.
    Hold(tcp_client::Hold),
    /// Name server for a few names, over UDP and TCP, that says every message that it gets.
    DnsServer(dns_server::Options),
    /// Asks name servers and says what comes back, and from where.
    Ask(dns_client::Options),
    /// HTTP requests, one after another.
    Get(get::Options),
    /// HTTP requests at a fixed rate until a time or SIGTERM.
    Load(load::Options),
    /// SOCKS5 server whose connections are the pod's own.
    Socks(socks::Options),
    /// One gRPC stream in both directions, message by message.
    GrpcStream(grpc::Options),
    /// A hand-made HBONE peer: TLS with or without a certificate, then one request.
    Hbone(hbone::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::EchoServer(options) => tcp_server::echo(&options),
        Command::Sink(options) => tcp_server::sink(&options),
        Command::RecordServer(options) => tcp_server::record(&options),
        Command::HttpServer(options) => http_server::run(options),
        Command::Connect(options) => tcp_client::connect(&options),
        Command::Raw(options) => tcp_client::raw(&options),
        Command::Chat(options) => tcp_client::chat(&options),
        Command::Stream(options) => tcp_client::stream(&options),
        Command::Hold(options) => tcp_client::hold(&options),
        Command::DnsServer(options) => dns_server::run(&options),
        Command::Ask(options) => dns_client::run(&options),
        Command::Get(options) => get::run(options),
        Command::Load(options) => load::run(options),
        Command::Socks(options) => socks::run(&options),
        Command::GrpcStream(options) => grpc::run(&options),
        Command::Hbone(options) => hbone::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podkit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints one JSON line at once, also into a pipe.
fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    // Nobody may be reading any more; the process goes on serving.
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}
