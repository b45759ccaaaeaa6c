//! `eventloader healthcheck`: what a container engine runs now and then; its image has no other client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{Context, Failure};

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    /// Ask whether it is ready, too: whether the database answers and no source has stalled
    #[arg(long)]
    ready: bool,
}

impl Healthcheck {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let address = reachable(context.config.admin.listen);
        if address.port() == 0 {
            return Err(Failure::new("port 0 of [admin] listen is another one at each start")
                .with_hint("name a port"));
        }
        let path = if self.ready { "readyz" } else { "healthz" };
        let url = format!("http://{address}/{path}");
        let unreachable = |error: reqwest::Error| {
            Failure::new(format!("{url} does not answer: {}", crate::telemetry::chain(&error)))
                .with_hint("is `eventloader run` running, with this [admin] listen?")
        };
        let client =
            reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().map_err(unreachable)?;
        let response = client.get(&url).send().await.map_err(unreachable)?;
        let is_good = response.status().is_success();
        let body: Value = response
            .bytes()
            .await
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok())
            .unwrap_or_default();
        context.output.json(&body)?;
        if is_good {
            Ok(())
        } else {
            Err(Failure::new(format!("it is not {}", if self.ready { "ready" } else { "healthy" })))
        }
    }
}

/// Where this machine finds what listens on `listen`.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
