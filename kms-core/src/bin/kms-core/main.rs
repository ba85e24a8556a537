//! The command line around the library: parse, set up the program's own log, run
//! one command, turn the result into an exit code.

mod doctor;
mod limits;
mod output;
mod relay;
mod request;
mod serve;
mod value;

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A KMS lab: server, relay, client and doctor.
#[derive(Debug, Parser)]
#[command(name = "kms-core", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer lab clients, as a KMS host would answer its own
    Serve(serve::Args),
    /// Stand in front of a licensed KMS host: limits, a log, statistics
    Relay(relay::Args),
    /// Send lab requests: one, many, or as many as a server can take
    Request(Box<request::Args>),
    /// Tell what is wrong with a KMS endpoint, step by step
    Doctor(doctor::Args),
    /// See and change whom a running server or relay turns away
    Limits(limits::Args),
}

/// Why a command ended badly.
#[derive(Debug)]
struct Failure {
    /// What the process ends with; 2 for what was configured wrongly.
    code: u8,
    /// One line.
    message: String,
}

impl Failure {
    /// An option, or what it names, cannot be used: name it and the fix.
    fn usage(message: impl Display) -> Self {
        Self {
            code: 2,
            message: message.to_string(),
        }
    }

    /// It did not work.
    fn other(message: impl Display) -> Self {
        Self {
            code: 1,
            message: message.to_string(),
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    start_log();
    let result = match cli.command {
        Command::Serve(args) => block_on(serve::run(args)),
        Command::Relay(args) => block_on(relay::run(args)),
        Command::Request(args) => block_on(request::run(*args)),
        Command::Doctor(args) => block_on(doctor::run(args)),
        Command::Limits(args) => block_on(limits::run(args)),
    };
    result.unwrap_or_else(|failure| {
        // The code says it too, where nobody reads the line.
        let _ = writeln!(io::stderr(), "kms-core: {}", failure.message);
        ExitCode::from(failure.code)
    })
}

/// Help and version as clap prints them; an error in one line.
fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let _ = writeln!(
        io::stderr(),
        "kms-core: {}; see --help",
        first.trim_start_matches("error: ")
    );
    ExitCode::from(2)
}

/// The program's own log, on standard error.
fn start_log() {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_target(false)
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
}

fn block_on(future: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::other)?
        .block_on(future)
}
