//! The command line around the library: parse, set up the program's own log, run
//! one command, turn the result into an exit code.

mod config;
mod doctor;
mod front;
mod limits;
mod output;
mod relay;
mod request;
mod serve;
mod value;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use config::Problem;

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
    Serve(Box<serve::Args>),
    /// Stand in front of a licensed KMS host: limits, a log, statistics
    Relay(Box<relay::Args>),
    /// Send lab requests: one, many, or as many as a server can take
    Request(Box<request::Args>),
    /// Tell what is wrong with a KMS endpoint, step by step
    Doctor(doctor::Args),
    /// See and change whom a running server or relay turns away
    Limits(limits::Args),
    /// Write man pages and shell completions
    #[command(hide = true)]
    Generate(cli::Generate),
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

impl Cli {
    /// The options of a command that listens.
    fn front(&self) -> Option<&front::FrontArgs> {
        match &self.command {
            Command::Serve(args) => Some(&args.front),
            Command::Relay(args) => Some(&args.front),
            _ => None,
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match parse(&args) {
        Ok(cli) => cli,
        Err(problem) => return explain(problem),
    };
    start_log();
    let result = match cli.command {
        Command::Serve(args) => block_on_all_cores(serve::run(*args)),
        Command::Relay(args) => block_on_all_cores(relay::run(*args)),
        Command::Request(args) => block_on(request::run(*args)),
        Command::Doctor(args) => block_on(doctor::run(args)),
        Command::Limits(args) => block_on(limits::run(args)),
        Command::Generate(what) => what
            .write(Cli::command())
            .map(|()| ExitCode::SUCCESS)
            .map_err(Failure::usage),
    };
    result.unwrap_or_else(|failure| complain(&failure.message, failure.code))
}

/// The command line with the environment and the file.
fn parse(args: &[OsString]) -> Result<Cli, Problem> {
    let matches = config::matches(&Cli::command(), args)?;
    Ok(Cli::from_arg_matches(&matches)?)
}

/// Help and version as clap prints them; an error in one line.
fn explain(problem: Problem) -> ExitCode {
    match problem {
        Problem::Wrong(why) => complain(&why, 2),
        Problem::Help(text) => match text.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
    }
}

fn complain(message: &str, code: u8) -> ExitCode {
    // The code says it too, where nobody reads the line.
    let _ = writeln!(io::stderr(), "kms-core: {message}");
    ExitCode::from(code)
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

/// For what many connections wait for.
fn block_on_all_cores(
    future: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::other)?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;
    use kms_core::doctor::Verdict;
    use kms_core::relay::{Relay, RelaySettings};
    use kms_core::responder::Reason;
    use kms_core::server::{Log, Metrics};

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }

    /// Options stand below the heading that is theirs, not below the one before.
    #[test]
    fn a_hosts_own_options_have_a_heading_of_their_own() {
        let all = super::Cli::command();
        let serve = all.find_subcommand("serve").unwrap();
        let below = |heading: &str| -> Vec<_> {
            let args = serve.get_arguments();
            let args = args.filter(|arg| arg.get_help_heading() == Some(heading));
            args.filter_map(clap::Arg::get_long).collect()
        };
        assert_eq!(
            below("Protocol"),
            ["idle-timeout", "pdu-timeout", "ndr64", "btfn"]
        );
        let limits = below("Limits (see docs/limits.md)");
        assert!(
            limits.iter().all(|name| name.starts_with("limit-")),
            "{limits:?}"
        );
    }

    const DOCTOR: &str = include_str!("../../../../docs/doctor.md");
    const KMS_CORE: &str = include_str!("../../../../docs/kms-core.md");
    const LAB_CLIENT: &str = include_str!("../../../../docs/lab-client.md");
    const RELAY: &str = include_str!("../../../../docs/relay.md");

    /// The long options of a command.
    fn options(command: &str) -> BTreeSet<String> {
        let mut all = super::Cli::command();
        all.build();
        let command = all.find_subcommand(command).unwrap();
        let options = command.get_arguments().filter_map(clap::Arg::get_long);
        let options = options.filter(|option| *option != "help");
        options.map(|option| format!("--{option}")).collect()
    }

    #[test]
    fn every_option_is_in_the_documentation() {
        // What a relay has in common with a server is in that one's page.
        let own = &options("relay") - &options("serve");
        assert!(own.contains("--upstream"));
        for (options, page) in [
            (options("doctor"), DOCTOR),
            (options("request"), LAB_CLIENT),
            (own, RELAY),
        ] {
            for option in options {
                // In code, alone or before a value, another option or a choice.
                let described = [" ", "`", "="]
                    .iter()
                    .any(|end| page.contains(&format!("`{option}{end}")));
                assert!(described, "{option}");
            }
        }
    }

    #[test]
    fn every_verdict_is_in_the_documentation_with_its_code() {
        for (code, label) in Verdict::CODES {
            let row = format!("| {code} | `{label}` |");
            assert!(DOCTOR.contains(&row), "{row}");
        }
    }

    #[test]
    fn every_reason_of_a_pdu_is_in_the_documentation_and_no_other() {
        let section = KMS_CORE.split("### What became of a PDU").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let described: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
        assert_eq!(described, BTreeSet::from(Reason::LABELS));
    }

    #[test]
    fn every_metric_of_a_relay_is_in_the_documentation() {
        let metrics = Metrics::of_relay();
        let settings = RelaySettings {
            upstreams: vec!["kms.example.lan".parse().unwrap()],
            ..RelaySettings::default()
        };
        // Names its upstreams to the metrics.
        drop(Relay::new(settings, Log::nowhere(), metrics.clone()));
        let format = kms_core::exposition::Format::Classic;
        let text = metrics.encode(format, Default::default()).unwrap();
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names = names.filter_map(|line| line.split(' ').next());
        let relays: Vec<&str> = names.filter(|name| name.contains("relay")).collect();
        assert_eq!(relays.len(), 5, "{relays:?}");
        for name in relays {
            assert!(RELAY.contains(&format!("| `{name}")), "{name}");
        }
    }
}
