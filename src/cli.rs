//! The command line: one file per command. Says what was done on standard output, what went wrong on standard error.

mod check;
mod completions;
mod config;
mod create_partitions;
mod dead_letters;
mod demo;
mod healthcheck;
mod init;
mod migrate;
mod output;
mod prune_request_log;
mod requests;
mod retry_worker;
mod run;
mod sources;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;
use sqlx::PgPool;

use crate::app::AppError;
use crate::config::{Config, ConfigError, Environment, LoadRequest, ProcessConfig};
use crate::database::{Database, DatabaseError};
use crate::operate::OperateError;
use crate::postgres::migrate::SchemaError;
use crate::store::{Actor, StoreError};
use crate::telemetry::{self, LogFormat, Traces, chain};
use crate::upkeep::UpkeepError;
use output::Output;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage; 69 database unavailable at start; \
                          78 bad configuration.";

/// Pulls every event out of many sources, once, into PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "eventloader", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Configuration file [default: ./eventloader.toml, then /etc/eventloader/eventloader.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// PostgreSQL to use, before `url` of `[database]` and `DATABASE_URL`; none at all: the embedded one
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<SecretString>,
    /// Never start the embedded PostgreSQL: a missing database URL is an error
    #[arg(long, global = true)]
    no_embedded: bool,
    /// How log lines look [default: text on a terminal, else json]
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
    /// error, warn, info, debug, trace, or a filter such as info,sqlx=debug
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the loader, the retry worker and upkeep until a signal
    Run(run::Run),
    /// Move events from the inbox to the event log
    RetryWorker(retry_worker::RetryWorker),
    /// Show what it does, on a private PostgreSQL and an event API with moods
    Demo(demo::Demo),
    /// Look at the configuration, the database and every source, and say what to do
    Check(check::Check),
    /// Delete or archive old requests that are finished
    ///
    /// Only requests that succeeded, or were retried or skipped. A request that still holds its window (reserved, on its
    /// way from the inbox, failed, orphaned) is never pruned, however old: without its row the same events could be asked for
    /// again. It asks no questions, so that cron can run it; --dry-run counts what would go.
    PruneRequestLog(prune_request_log::PruneRequestLog),
    /// Make the monthly partitions of the archive of requests
    ///
    /// Partitions that are there already stay as they are. `prune-request-log --archive` makes those it needs by itself.
    CreatePartitions(create_partitions::CreatePartitions),
    /// Bring the database schema up to date
    Migrate(migrate::Migrate),
    /// Show the state of every source, and what to do about it
    Status(status::Status),
    /// List, pause, resume and seek sources
    #[command(subcommand)]
    Sources(sources::Sources),
    /// The request log: list, show, retry and skip requests
    #[command(subcommand)]
    Requests(requests::Requests),
    /// Print what a shell needs to complete the command line
    Completions(completions::Completions),
    /// Print the man page, or write one for every command
    Man(completions::Man),
    /// What was refused: list, show, replay and discard
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetters),
    /// Ask the admin server of a running eventloader whether it is healthy
    Healthcheck(healthcheck::Healthcheck),
    /// Write a commented configuration file to begin with
    Init(init::Init),
    /// The configuration: what can be set, and what is
    #[command(subcommand)]
    Config(config::Config),
}

/// Why a command failed, as an exit code and a message.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), hint: None }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into(), hint: None }
    }

    fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

const CONFIGURATION: u8 = 78;
const UNAVAILABLE: u8 = 69;

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { code: CONFIGURATION, message: error.to_string(), hint: None }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { code: 1, message: chain(&error), hint: error.hint().map(str::to_owned) }
    }
}

impl From<OperateError> for Failure {
    fn from(error: OperateError) -> Self {
        let code = if matches!(error, OperateError::Usage { .. }) { 2 } else { 1 };
        Self { code, hint: error.hint().map(str::to_owned), message: chain(&error) }
    }
}

impl From<UpkeepError> for Failure {
    fn from(error: UpkeepError) -> Self {
        Self { code: 1, message: chain(&error), hint: error.hint() }
    }
}

impl From<SchemaError> for Failure {
    fn from(error: SchemaError) -> Self {
        let code = if matches!(error, SchemaError::Unreadable(_)) { UNAVAILABLE } else { 1 };
        Self { code, message: chain(&error), hint: error.hint().map(str::to_owned) }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Schema(error) => error.into(),
            DatabaseError::NotConfigured | DatabaseError::Url => {
                Self { code: CONFIGURATION, message: error.to_string(), hint: None }
            }
            DatabaseError::Embedded(error) => {
                Self { code: error.exit_code(), message: chain(&error), hint: None }
            }
            DatabaseError::Unavailable { .. } => Self {
                code: UNAVAILABLE,
                hint: error.hint().map(str::to_owned),
                message: chain(&error),
            },
        }
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        match error {
            AppError::Database(error) => error.into(),
            AppError::Store(error) => error.into(),
            AppError::Admin(error) => {
                Self { code: 1, hint: error.hint().map(str::to_owned), message: chain(&error) }
            }
            AppError::Source { .. } | AppError::StreamTaken(_) => {
                Self { code: CONFIGURATION, message: chain(&error), hint: None }
            }
            AppError::Signals(_)
            | AppError::PartEnded(_)
            | AppError::Overdue
            | AppError::SecondSignal => Self::new(chain(&error)),
        }
    }
}

/// What every command is given.
struct Context {
    config: Config,
    request: LoadRequest,
    environment: Environment,
    process: ProcessConfig,
    output: Output,
    traces: Traces,
}

impl Context {
    /// Reads the configuration again, as at the start.
    fn reread(&self) -> Result<Config, ConfigError> {
        Config::load(&self.request, &self.environment)
    }

    /// Opens the database with an up-to-date schema.
    async fn open(&self) -> Result<Database, Failure> {
        let database = Database::open(&self.config, &self.process).await?;
        if let Err(error) = database.migrate().await {
            // An embedded server must not stay behind; why the schema cannot be used is what matters.
            drop(database.close().await);
            return Err(error.into());
        }
        Ok(database)
    }

    /// Opens the database for one piece of work, and closes it whatever came of that.
    async fn with_pool<T>(
        &self,
        work: impl AsyncFnOnce(&PgPool) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let database = self.open().await?;
        let outcome = work(&database.pool).await;
        database.close().await?;
        outcome
    }
}

/// What a long-running command logs. During an outage the connection pool would repeat itself twice a second; that the
/// database is away is said once by those who miss it.
const INFO: &str = "info,sqlx_core::pool=error";

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, which may be closed; there is nobody to tell then.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.message, failure.hint.as_deref());
            ExitCode::from(failure.code)
        }
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    // Several TLS providers may be in the tree; without this choice the first handshake would panic.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let environment = Environment::from_process();
    #[cfg(feature = "chaos")]
    break_what_is_asked(&environment).map_err(Failure::usage)?;
    let request =
        LoadRequest { config_flag: cli.global.config, database_url_flag: cli.global.database_url };
    let output = Output::default();
    if let Some(answer) = answer_at_once(&cli.command, &request, &environment, &output) {
        return answer;
    }
    let mut process = ProcessConfig::from_environment(&environment)?;
    process.no_embedded |= cli.global.no_embedded;
    // Commands other than `run` answer on standard output; their log lines would only be in the way.
    let quiet = !matches!(cli.command, Command::Run(_) | Command::RetryWorker(_));
    let default_level = if quiet { "warn" } else { INFO };
    let level = cli.global.log_level.as_deref().unwrap_or(default_level);
    let traces = if process.wants_traces && !quiet {
        Traces::over_otlp()
            .map_err(|message| Failure { code: CONFIGURATION, ..Failure::new(message) })?
    } else {
        Traces::default()
    };
    telemetry::start(cli.global.log_format, level, !process.no_color, &traces)
        .map_err(Failure::usage)?;
    let config = match &cli.command {
        // It brings its own, whatever is here.
        Command::Demo(_) => Config::default(),
        Command::Check(command) => match Config::load(&request, &environment) {
            Ok(config) => config,
            Err(error) => return command.wrong(&error, &output),
        },
        _ => Config::load(&request, &environment)?,
    };
    let context = Context { config, request, environment, process, output, traces };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("failed to start the runtime: {error}")))?;
    let outcome = runtime.block_on(dispatch(cli.command, &context));
    // Whatever still blocks a thread (a name that is looked up, a client that says goodbye) has had its time.
    runtime.shutdown_background();
    outcome
}

/// Takes the fault campaign's orders.
#[cfg(feature = "chaos")]
fn break_what_is_asked(environment: &Environment) -> Result<(), String> {
    let text = |name| environment.get_os(name).map(std::ffi::OsStr::to_string_lossy);
    text("EVENTLOADER_FAILPOINT").map_or(Ok(()), |place| crate::failpoint::arm(&place))?;
    text("EVENTLOADER_MUTANT").map_or(Ok(()), |name| crate::mutant::choose(&name))
}

/// What can be answered whatever is wrong with the configuration.
fn answer_at_once(
    command: &Command,
    request: &LoadRequest,
    environment: &Environment,
    output: &Output,
) -> Option<Result<(), Failure>> {
    match command {
        Command::Init(command) => Some(command.run(output)),
        Command::Config(command) => Some(command.run(request, environment, output)),
        Command::Completions(command) => Some(command.run(output)),
        Command::Man(command) => Some(command.run(output)),
        Command::Check(command) => command.explain(output),
        _ => None,
    }
}

async fn dispatch(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Run(command) => command.run(context).await,
        Command::RetryWorker(command) => Box::pin(command.run(context)).await,
        Command::Demo(command) => command.run(context).await,
        Command::Check(command) => command.run(context).await,
        Command::PruneRequestLog(command) => command.run(context).await,
        Command::CreatePartitions(command) => command.run(context).await,
        Command::Migrate(command) => command.run(context).await,
        Command::Status(command) => command.run(context).await,
        Command::Sources(command) => command.run(context).await,
        Command::Requests(command) => command.run(context).await,
        Command::DeadLetters(command) => command.run(context).await,
        Command::Healthcheck(command) => command.run(context).await,
        Command::Init(_) | Command::Config(_) | Command::Completions(_) | Command::Man(_) => {
            unreachable!("answered at once")
        }
    }
}

/// Who acts by hand, for the audit log: the user of this machine.
fn actor(context: &Context) -> Actor {
    Actor(format!("operator {}", context.process.user))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
