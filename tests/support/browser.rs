//! Headless Chromium, driven by chromedriver over `WebDriver`. That is JSON over HTTP, and a client for HTTP is there already.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::wait_for;

/// Serves `WebDriver` on a free port, with everything it writes below the directory $1. Ends and removes it all at the end of
/// its input, which is the end of the test process, however it comes: Chromium is in the driver's process group.
const SERVE: &str = r#"
trap '' HUP INT TERM
export HOME="$1" TMPDIR="$1"
setsid chromedriver --port=0 >"$1/log" 2>&1 &
driver=$!
cat >/dev/null
kill -s KILL -- "-$driver"
wait "$driver" 2>/dev/null
for _ in 1 2 3 4 5; do rm -rf -- "$1" 2>/dev/null && break; sleep 0.1; done
"#;

/// How long a page may take to look as it should. For values, not timings.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const TAB: char = '\u{e004}';
pub(crate) const ENTER: char = '\u{e007}';
pub(crate) const ESCAPE: char = '\u{e00c}';

/// One Chromium with a profile of its own. It ends with the value.
pub(crate) struct Browser {
    client: reqwest::Client,
    /// Where its commands go.
    session: String,
    input: Option<ChildStdin>,
    shell: Child,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The shell ends with its input.
        drop(self.input.take());
        drop(self.shell.wait());
    }
}

impl Browser {
    pub(crate) async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// One that runs no scripts of pages. Those of the test run all the same.
    pub(crate) async fn without_javascript() -> Self {
        Self::start_with(json!({ "profile.managed_default_content_settings.javascript": 2 })).await
    }

    async fn start_with(preferences: Value) -> Self {
        let name = format!("eventloader-browser-{}", uuid::Uuid::new_v4().simple());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SERVE, "sh"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = shell.stdin.take();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut browser = Self { client, session: String::new(), input, shell };
        let port = port_of_driver(dir.join("log")).await;
        let server = format!("http://127.0.0.1:{port}/session");
        let answer = browser.send(Method::POST, &server, &wishes(&dir, &preferences)).await;
        let session = answer.unwrap_or_else(|error| panic!("Chromium does not start: {error}"));
        browser.session = format!("{server}/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    async fn send(&self, method: Method, url: &str, body: &Value) -> Result<Value, Value> {
        let request = self.client.request(method.clone(), url);
        let request = if method == Method::POST { request.body(body.to_string()) } else { request };
        let text = request.send().await.unwrap().text().await.unwrap();
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        let value = answer["value"].take();
        if value["error"].is_string() { Err(value) } else { Ok(value) }
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Value> {
        self.send(Method::POST, &format!("{}{path}", self.session), body).await
    }

    pub(crate) async fn go(&self, url: &str) {
        self.post("/url", &json!({ "url": url })).await.unwrap();
    }

    /// Goes to the page of an admin server with its token.
    pub(crate) async fn sign_in(&self, url: &str, token: &str) {
        self.go(url).await;
        self.enter("#token", token).await;
        self.click("form.login button").await;
        self.until("document.querySelector('#sources tr')").await;
    }

    /// What a script answers.
    pub(crate) async fn js(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
            .await
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.js(&format!("return !!({expression})")).await != json!(true) {
            let text = || self.text("body");
            assert!(Instant::now() < deadline, "waited for {expression} on:\n{}", text().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until an element has this text in it.
    pub(crate) async fn until_says(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!("document.querySelector({selector})?.innerText.includes({text})"))
            .await;
    }

    /// The text of an element as it is seen, empty where there is none.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let selector = json!(selector);
        let text = self.js(&format!("return document.querySelector({selector})?.innerText")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Does something with an element; again, where it is not there yet, was drawn anew meanwhile, or is covered.
    async fn with(&self, selector: &str, command: &str, body: &Value) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.try_with(selector, command, body).await {
            let text = || self.text("body");
            let passes = matches!(
                error["error"].as_str(),
                Some(
                    "no such element"
                        | "stale element reference"
                        | "element not interactable"
                        | "element click intercepted"
                )
            );
            let why = &error["message"];
            assert!(
                passes && Instant::now() < deadline,
                "{command} of {selector}: {why} on:\n{}",
                text().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_with(&self, selector: &str, command: &str, body: &Value) -> Result<Value, Value> {
        let find = json!({ "using": "css selector", "value": selector });
        let found = self.post("/element", &find).await?;
        // As people do: something that stays where it is, such as the head of a table, may cover it at the edge.
        let scroll = "arguments[0].scrollIntoView({ block: 'center' })";
        self.post("/execute/sync", &json!({ "script": scroll, "args": [found] })).await?;
        let id = found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.post(&format!("/element/{id}/{command}"), body).await
    }

    /// Clicks in its middle, as a mouse does.
    pub(crate) async fn click(&self, selector: &str) {
        self.with(selector, "click", &json!({})).await;
    }

    /// Types into a field.
    pub(crate) async fn enter(&self, selector: &str, text: &str) {
        self.with(selector, "value", &json!({ "text": text })).await;
    }

    /// Empties a field, as people do: Ctrl-A and Delete.
    pub(crate) async fn clear(&self, selector: &str) {
        self.enter(selector, "\u{e009}a\u{e000}\u{e017}").await;
    }

    /// Presses a key, wherever the keyboard is.
    pub(crate) async fn press(&self, key: char) {
        let actions = json!([{ "type": "key", "id": "keyboard", "actions": [
            { "type": "keyDown", "value": key }, { "type": "keyUp", "value": key },
        ] }]);
        self.post("/actions", &json!({ "actions": actions })).await.unwrap();
    }

    /// Presses Tab until the keyboard is at an element.
    pub(crate) async fn tab_to(&self, selector: &str) {
        let script = format!("return document.activeElement.matches({})", json!(selector));
        for _ in 0..100 {
            self.press(TAB).await;
            if self.js(&script).await == json!(true) {
                return;
            }
        }
        panic!("Tab does not lead to {selector} on:\n{}", self.text("body").await);
    }

    /// Says yes to a question, and answers it.
    pub(crate) async fn accept(&self) -> String {
        let text = format!("{}/alert/text", self.session);
        let question = wait_for("a question", || async {
            self.send(Method::GET, &text, &Value::Null).await.ok()
        })
        .await;
        self.post("/alert/accept", &json!({})).await.unwrap();
        question.as_str().unwrap().to_owned()
    }

    /// What the console says, from warnings upwards: also what the policy of the page forbids.
    pub(crate) async fn console(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({ "type": "browser" })).await.unwrap();
        let entries = entries.as_array().unwrap().iter();
        entries
            .filter(|entry| matches!(entry["level"].as_str(), Some("WARNING" | "SEVERE")))
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Every address that the pages asked for, but those within the browser: it starts with a page of its own.
    pub(crate) async fn asked(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({ "type": "performance" })).await.unwrap();
        let entries = entries.as_array().unwrap().iter();
        entries
            .filter_map(|entry| {
                let event: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
                let message = &event["message"];
                (message["method"] == "Network.requestWillBeSent")
                    .then(|| message["params"]["request"]["url"].as_str().unwrap().to_owned())
            })
            .filter(|url| !url.starts_with("chrome:") && !url.starts_with("data:"))
            .collect()
    }
}

/// It says where it serves.
async fn port_of_driver(log: PathBuf) -> u16 {
    wait_for("chromedriver, which scripts/setup.sh tests installs", || async {
        let mut text = String::new();
        std::fs::File::open(&log).ok()?.read_to_string(&mut text).ok()?;
        let port = text.split("successfully on port ").nth(1)?.split('.').next()?;
        port.parse().ok()
    })
    .await
}

/// What a session is asked for.
fn wishes(dir: &std::path::Path, preferences: &Value) -> Value {
    // Pages are our own, and many containers allow no sandbox; nor do they have much of /dev/shm.
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--window-size=1400,1000",
    ];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
    arguments.push(format!("--user-data-dir={}", dir.join("profile").display()));
    json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "goog:chromeOptions": { "args": arguments, "prefs": preferences },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        "unhandledPromptBehavior": "ignore",
    } } })
}
