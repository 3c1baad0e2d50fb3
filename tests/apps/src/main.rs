//! The Weather Forecast application of the mesh's demo: frontend (3000) asks advertisement (3003, gRPC) and forecast
//! (3002, HTTP); forecast v2 also asks recommendation (3005). One small program, one subcommand a service.
//!
//! It does what meshed applications are asked to: it hands on the headers of the trace, and nothing else.

mod grpc;
mod server;
mod upstream;

use clap::{Parser, Subcommand};
use std::net::SocketAddr;

#[derive(Parser)]
#[command(name = "weather-apps", about = "Weather Forecast, the demo application")]
struct Cli {
    /// Address to listen on; the service's usual port on all addresses if none.
    #[arg(long, global = true)]
    listen: Option<SocketAddr>,
    #[command(subcommand)]
    role: Role,
}

/// Which of the services to be.
#[derive(Clone, Debug, Subcommand)]
enum Role {
    /// The page: which forecast answered, with or without recommendation, and the advertisement.
    Frontend {
        /// `host:port` of advertisement.
        #[arg(long, default_value = "advertisement:3003")]
        advertisement: String,
        /// `host:port` of forecast.
        #[arg(long, default_value = "forecast:3002")]
        forecast: String,
        /// Address to dial for forecast where there is no DNS; the name still goes into `Host`.
        #[arg(long)]
        forecast_address: Option<SocketAddr>,
        /// The same for advertisement.
        #[arg(long)]
        advertisement_address: Option<SocketAddr>,
    },
    /// A line of advertisement, by gRPC.
    Advertisement,
    /// The weather; version 2 with a recommendation.
    Forecast {
        /// `v1` or `v2`.
        #[arg(long, default_value = "v1")]
        version: String,
        /// `host:port` of recommendation.
        #[arg(long, default_value = "recommendation:3005")]
        recommendation: String,
        /// Address to dial for recommendation where there is no DNS.
        #[arg(long)]
        recommendation_address: Option<SocketAddr>,
    },
    /// What to wear.
    Recommendation,
}

impl Role {
    const fn port(&self) -> u16 {
        match self {
            Self::Frontend { .. } => 3000,
            Self::Forecast { .. } => 3002,
            Self::Advertisement => 3003,
            Self::Recommendation => 3005,
        }
    }
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let listen = cli
        .listen
        .unwrap_or_else(|| SocketAddr::from(([0u16; 8], cli.role.port())));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(server::run(listen, cli.role))
}
