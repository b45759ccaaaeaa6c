//! A private Prometheus that scrapes every second, with the alert rules of the repository made impatient.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::wait_for;

/// A running Prometheus; it ends with the value.
pub(crate) struct Prometheus {
    url: String,
    _server: Child,
    _directory: TempDir,
}

/// The rules as they are, but for how long they wait: `for` goes, and ranges of minutes become seconds.
fn impatient(rules: &str) -> String {
    let lines = rules.lines().filter(|line| !line.trim_start().starts_with("for: "));
    let text: Vec<String> =
        lines.map(|line| line.replace("[10m]", "[10s]").replace("[15m]", "[10s]")).collect();
    text.join("\n")
}

impl Prometheus {
    /// Scrapes these addresses, showing the token, as instances of the job `eventloader`.
    pub(crate) async fn start(addresses: &[String], token: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yml");
        let rules = impatient(&std::fs::read_to_string(rules).unwrap());
        std::fs::write(directory.path().join("alerts.yml"), rules).unwrap();
        let mut configuration = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [alerts.yml]\nscrape_configs:\n  \
             - job_name: eventloader\n    authorization: {{credentials: {token}}}\n    static_configs:\n    - targets:\n"
        );
        for address in addresses {
            writeln!(configuration, "      - \"{}\"", address.trim_start_matches("http://"))
                .unwrap();
        }
        std::fs::write(directory.path().join("prometheus.yml"), configuration).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let server = Command::new("prometheus")
            .current_dir(directory.path())
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Prometheus is there: `make setup-tests`");
        let prometheus =
            Self { url: format!("http://{address}"), _server: server, _directory: directory };
        wait_for("Prometheus", || async {
            let answer = prometheus.get("/-/ready").await?;
            answer.status().is_success().then_some(())
        })
        .await;
        prometheus
    }

    async fn get(&self, path: &str) -> Option<reqwest::Response> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(format!("{}{path}", self.url)).send().await.ok()
    }

    /// The alerts that fire now, each with its labels.
    pub(crate) async fn firing(&self) -> Vec<Value> {
        let Some(answer) = self.get("/api/v1/alerts").await else { return Vec::new() };
        let value: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let alerts = value["data"]["alerts"].as_array().cloned().unwrap_or_default();
        alerts.into_iter().filter(|alert| alert["state"] == "firing").collect()
    }

    /// Waits until this alert fires, and answers with its labels.
    pub(crate) async fn wait_for(&self, name: &str) -> Value {
        wait_for(name, || async {
            let firing = self.firing().await;
            let alert = firing.into_iter().find(|alert| alert["labels"]["alertname"] == name)?;
            Some(alert["labels"].clone())
        })
        .await
    }

    /// Whether an instance has been scraped.
    pub(crate) async fn has(&self, query: &str) -> bool {
        let Some(answer) = self.get(&format!("/api/v1/query?query={query}")).await else {
            return false;
        };
        let value: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        value["data"]["result"].as_array().is_some_and(|result| !result.is_empty())
    }
}
