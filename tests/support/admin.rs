//! A running program and its admin server.

use std::fmt::Write as _;
use std::process::Stdio;

use reqwest::{RequestBuilder, Response, StatusCode};
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::database::Database;
use super::program::{Program, signal};
use super::wait_for;

pub(crate) const TOKEN: &str = "a-token-of-the-tests-0123456789";

/// `eventloader run` with an admin server on a free port, whose token is [`TOKEN`].
pub(crate) struct Administered {
    pub(crate) program: Program,
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
}

impl Administered {
    /// With these sources; waits until everything runs.
    pub(crate) async fn start(database: &Database, sources: &str) -> Self {
        let configuration =
            format!("[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n{sources}");
        let running = Self::start_program(Program::new(database, &configuration)).await;
        wait_for("everything to run", || async {
            let (_, ready) = running.json("/readyz").await;
            (ready["why"] != "starting: waiting for the database").then_some(())
        })
        .await;
        running
    }

    /// Waits only for the address.
    pub(crate) async fn start_program(program: Program) -> Self {
        let command = program.command(&["run"]);
        Self::of_command(program, command).await
    }

    /// A command of that program, whose log goes to its directory.
    pub(crate) async fn of_command(program: Program, mut command: Command) -> Self {
        let log = std::fs::File::create(program.path("log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let url = wait_for("the address of the admin server", || async {
            let log = program.read("log");
            let at = log.find("\"address\":\"")? + "\"address\":\"".len();
            Some(format!("http://{}", log[at..].split('"').next()?))
        })
        .await;
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { program, child, url, client }
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url)).bearer_auth(TOKEN)
    }

    pub(crate) async fn json(&self, path: &str) -> (StatusCode, Value) {
        read(self.get(path).send().await.unwrap()).await
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        self.get(path).send().await.unwrap().text().await.unwrap()
    }

    /// Changes something, as a program.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = self.client.post(format!("{}{path}", self.url)).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json").body(body.to_string());
        read(request.send().await.unwrap()).await
    }

    /// The value of a series, as it stands before its value in `/metrics`.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.text("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    pub(crate) async fn stop(mut self) {
        signal(&self.child, Signal::TERM);
        let status = self.child.wait().await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.program.read("log"));
    }
}

/// A request with a form.
pub(crate) fn form(request: RequestBuilder, fields: &str) -> RequestBuilder {
    let kind = "application/x-www-form-urlencoded";
    request.header("content-type", kind).body(fields.to_owned())
}

async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Sources by name, kind of address and further lines.
pub(crate) fn http_sources(sources: &[(&str, String, &str)]) -> String {
    let mut text = String::new();
    for (name, url, lines) in sources {
        writeln!(text, "[sources.{name}]\ntype = \"http\"\nurl = \"{url}\"\n{lines}").unwrap();
    }
    text
}
