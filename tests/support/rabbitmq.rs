//! RabbitMQ 4 with streams: one private broker for the whole run, and brokers of a test's own that may be stopped, killed
//! and frozen. `scripts/rabbitmq4.sh` unpacks and serves them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use uuid::Uuid;

use super::tls::Authority;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq4.sh");
pub(crate) const USER: &str = "tester";
pub(crate) const PASSWORD: &str = "s3cret-of-rabbitmq";
/// Below the range from which the kernel gives ports to clients, so that a broker finds its own again after a pause.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Small: two schedulers that do not spin.
const ERLANG: &str = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none";
const PERSISTENT: u8 = 2;
const START_LIMIT: Duration = Duration::from_mins(2);

static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();

/// A broker. It ends, and its data are removed, with the value or with the test process, however that ends.
pub(crate) struct RabbitMq {
    pub(crate) ports: Ports,
    /// Its files, as seen from here.
    home: PathBuf,
    control: Arc<Mutex<Control>>,
}

/// Where a broker listens, on the loopback interface.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) amqp: u16,
    pub(crate) amqps: u16,
    pub(crate) stream: u16,
    pub(crate) stream_tls: u16,
    pub(crate) management: u16,
    distribution: u16,
    epmd: u16,
}

/// What serves the broker and takes commands. The end of its input is the end of the broker.
struct Control {
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    script: Child,
}

impl Control {
    fn tell(&mut self, command: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), command, "scripts/rabbitmq4.sh has ended");
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.commands.take());
        drop(self.script.wait());
    }
}

impl RabbitMq {
    /// The broker that all tests share: queues in it have names of their own.
    pub(crate) async fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self::with_config("")).await
    }

    /// A broker of the test's own, running.
    pub(crate) async fn own() -> Self {
        Self::with_config("").await
    }

    /// A broker of the test's own with these lines at the end of its `rabbitmq.conf`, where the last one counts.
    pub(crate) async fn with_config(lines: &str) -> Self {
        let root = Command::new(SCRIPT).arg("root").output().unwrap().stdout;
        let root = PathBuf::from(String::from_utf8(root).unwrap().trim_end());
        assert!(root.is_dir(), "RabbitMQ is not unpacked: scripts/setup.sh tests does it");
        let name = format!("eventloader-rabbitmq-{}", Uuid::new_v4().simple());
        let home = root.join("tmp").join(&name);
        std::fs::create_dir(&home).unwrap();
        let ports = free_ports();
        write_files(&home, &format!("/tmp/{name}"), ports, lines);
        let mut script = Command::new(SCRIPT)
            .args(["run", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = script.stdin.take();
        let answers = BufReader::new(script.stdout.take().unwrap());
        let control = Arc::new(Mutex::new(Control { commands, answers, script }));
        let broker = Self { ports, home, control };
        broker.start().await;
        broker
    }

    /// Starts the broker after [`Self::stop`] or [`Self::kill`], with the same data and ports, and waits until it is ready.
    pub(crate) async fn start(&self) {
        let before = self.starts();
        self.tell("start").await;
        let deadline = Instant::now() + START_LIMIT;
        while self.starts() == before {
            assert!(Instant::now() < deadline, "RabbitMQ did not start: {}", self.output());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the broker in order.
    pub(crate) async fn stop(&self) {
        self.tell("stop").await;
    }

    /// Ends the broker with SIGKILL.
    pub(crate) async fn kill(&self) {
        self.tell("kill").await;
    }

    /// Stops the broker's clock: connections stay open and nothing answers.
    pub(crate) async fn freeze(&self) {
        self.tell("freeze").await;
    }

    /// Ends [`Self::freeze`].
    pub(crate) async fn thaw(&self) {
        self.tell("thaw").await;
    }

    async fn tell(&self, command: &'static str) {
        let control = Arc::clone(&self.control);
        let told = tokio::task::spawn_blocking(move || control.lock().unwrap().tell(command));
        told.await.unwrap();
    }

    /// What it wrote to its standard output and error.
    fn output(&self) -> String {
        std::fs::read_to_string(self.home.join("output")).unwrap_or_default()
    }

    fn starts(&self) -> usize {
        self.output().matches("completed with").count()
    }

    /// The authority whose certificate the broker shows for `localhost`.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.home.join("ca.pem")
    }

    /// `amqp://` to the virtual host `/`.
    pub(crate) fn amqp_url(&self) -> String {
        self.url("amqp", "127.0.0.1", self.ports.amqp)
    }

    /// `amqps://`, for a client that knows [`Self::ca_file`].
    pub(crate) fn amqps_url(&self) -> String {
        self.url("amqps", "localhost", self.ports.amqps)
    }

    /// `rabbitmq-stream://`.
    pub(crate) fn stream_url(&self) -> String {
        self.url("rabbitmq-stream", "127.0.0.1", self.ports.stream)
    }

    /// `rabbitmq-stream+tls://`, for a client that knows [`Self::ca_file`].
    pub(crate) fn stream_tls_url(&self) -> String {
        self.url("rabbitmq-stream+tls", "localhost", self.ports.stream_tls)
    }

    #[expect(clippy::unused_self, reason = "a URL is a broker's")]
    fn url(&self, scheme: &str, host: &str, port: u16) -> String {
        format!("{scheme}://{USER}:{PASSWORD}@{host}:{port}/%2f")
    }

    /// One of the URLs above, for another user.
    pub(crate) fn url_as(&self, url: &str, user: &str, password: &str) -> String {
        let other = url.replace(&format!("{USER}:{PASSWORD}"), &format!("{user}:{password}"));
        assert_ne!(other, url, "{}", self.home.display());
        other
    }

    /// A channel that confirms what is published; it is open as long as the connection beside it.
    pub(crate) async fn channel(&self) -> (Connection, Channel) {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&self.amqp_url(), properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        (connection, channel)
    }

    /// Declares a durable queue with these arguments, such as `x-queue-type`, and answers its name, which begins with
    /// `what`.
    pub(crate) async fn declare(&self, what: &str, arguments: &[(&str, AMQPValue)]) -> String {
        let name = format!("{what}-{}", Uuid::new_v4().simple());
        let mut table = FieldTable::default();
        for (key, value) in arguments {
            table.insert((*key).into(), value.clone());
        }
        let (_connection, channel) = self.channel().await;
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(name.as_str().into(), options, table).await.unwrap();
        name
    }

    /// Declares a stream, and answers its name.
    pub(crate) async fn declare_stream(&self, arguments: &[(&str, AMQPValue)]) -> String {
        let kind = ("x-queue-type", AMQPValue::LongString("stream".into()));
        self.declare("stream", &[&[kind], arguments].concat()).await
    }

    pub(crate) async fn delete(&self, queue: &str) {
        let (_connection, channel) = self.channel().await;
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// Publishes to a queue or stream, in order and to be kept on disk, and waits until the broker has confirmed all.
    pub(crate) async fn publish<B: AsRef<[u8]>>(
        &self,
        queue: &str,
        messages: impl IntoIterator<Item = (B, BasicProperties)>,
    ) {
        let (_connection, channel) = self.channel().await;
        Self::publish_by(&channel, queue, messages).await;
    }

    /// The same, over a channel that is there.
    pub(crate) async fn publish_by<B: AsRef<[u8]>>(
        channel: &Channel,
        queue: &str,
        messages: impl IntoIterator<Item = (B, BasicProperties)>,
    ) {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let mut confirms = Vec::new();
        for (body, properties) in messages {
            let properties = properties.with_delivery_mode(PERSISTENT);
            let sent =
                channel.basic_publish("".into(), queue.into(), options, body.as_ref(), properties);
            confirms.push(sent.await.unwrap());
        }
        for confirm in confirms {
            let confirm = confirm.await.unwrap();
            assert!(confirm.is_ack() && confirm.take_message().is_none(), "not taken by {queue}");
        }
    }

    /// Messages that are ready in a queue, as the broker knows them at once.
    pub(crate) async fn depth(&self, queue: &str) -> u32 {
        let (_connection, channel) = self.channel().await;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        declared.unwrap().message_count()
    }

    /// Calls the management API, such as `PUT /api/users/NAME`, and answers the body.
    pub(crate) async fn api(&self, method: &str, path: &str, body: &serde_json::Value) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.ports.management);
        let request = reqwest::Client::new()
            .request(method.parse().unwrap(), url)
            .basic_auth(USER, Some(PASSWORD))
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        text
    }

    /// Makes a user that may only configure, write and read in `/` what these patterns say.
    pub(crate) async fn create_user(&self, user: &str, password: &str, rights: [&str; 3]) {
        let who = serde_json::json!({ "password": password, "tags": "" });
        self.api("PUT", &format!("/api/users/{user}"), &who).await;
        let [configure, write, read] = rights;
        let may = serde_json::json!({ "configure": configure, "write": write, "read": read });
        self.api("PUT", &format!("/api/permissions/%2f/{user}"), &may).await;
    }

    /// Sets a policy, such as `{"max-length": 10}`, for the queues whose names fit the pattern.
    pub(crate) async fn set_policy(&self, name: &str, pattern: &str, what: serde_json::Value) {
        let policy = serde_json::json!({ "pattern": pattern, "definition": what });
        self.api("PUT", &format!("/api/policies/%2f/{name}"), &policy).await;
    }

    /// Closes the connections whose `connection_name` contains this; answers how many.
    pub(crate) async fn close_connections(&self, named: &str) -> usize {
        let nothing = serde_json::Value::Null;
        let listed = self.api("GET", "/api/connections", &nothing).await;
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
        let mut closed = 0;
        for connection in &listed {
            let given = connection["client_properties"]["connection_name"].as_str();
            if given.is_some_and(|given| given.contains(named)) {
                let name = connection["name"].as_str().unwrap().replace(' ', "%20");
                let path = format!("/api/connections/{}", name.replace('>', "%3E"));
                self.api("DELETE", &path, &nothing).await;
                closed += 1;
            }
        }
        closed
    }
}

fn free_ports() -> Ports {
    let [amqp, amqps, stream, stream_tls, management, distribution, epmd] =
        std::array::from_fn(|_| free_port());
    Ports { amqp, amqps, stream, stream_tls, management, distribution, epmd }
}

fn free_port() -> u16 {
    loop {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Writes what `scripts/rabbitmq4.sh run` wants to find; the broker sees it as `inside`.
fn write_files(home: &Path, inside: &str, ports: Ports, lines: &str) {
    let authority = Authority::new();
    let leaf = authority.leaf("localhost", 2099);
    std::fs::copy(authority.file(), home.join("ca.pem")).unwrap();
    std::fs::copy(&leaf.cert_file, home.join("cert.pem")).unwrap();
    std::fs::copy(&leaf.key_file, home.join("key.pem")).unwrap();
    let Ports { amqp, amqps, stream, stream_tls, management, distribution, epmd } = ports;
    let config = format!(
        "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
         listeners.ssl.1 = 127.0.0.1:{amqps}\n\
         stream.listeners.tcp.1 = 127.0.0.1:{stream}\n\
         stream.listeners.ssl.1 = 127.0.0.1:{stream_tls}\n\
         stream.advertised_host = localhost\n\
         stream.advertised_port = {stream}\n\
         stream.advertised_tls_port = {stream_tls}\n\
         management.tcp.port = {management}\n\
         management.tcp.ip = 127.0.0.1\n\
         ssl_options.cacertfile = {inside}/ca.pem\n\
         ssl_options.certfile = {inside}/cert.pem\n\
         ssl_options.keyfile = {inside}/key.pem\n\
         ssl_options.verify = verify_none\n\
         default_user = {USER}\n\
         default_pass = {PASSWORD}\n\
         default_user_tags.administrator = true\n\
         collect_statistics_interval = 500\n\
         max_message_size = 67108864\n\
         log.file.level = info\n\
         {lines}\n"
    );
    std::fs::write(home.join("rabbitmq.conf"), config).unwrap();
    let plugins = "[rabbitmq_stream,rabbitmq_stream_management,rabbitmq_management].\n";
    std::fs::write(home.join("enabled_plugins"), plugins).unwrap();
    let name = &Uuid::new_v4().simple().to_string()[..12];
    let environment = format!(
        "ERL_EPMD_PORT={epmd}\n\
         ERL_EPMD_ADDRESS=127.0.0.1\n\
         RABBITMQ_DIST_PORT={distribution}\n\
         RABBITMQ_NODENAME=r{name}@localhost\n\
         RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS={ERLANG}\n"
    );
    std::fs::write(home.join("environment"), environment).unwrap();
}
