//! The command line's shape.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};

use super::error::{ConfigError, Stop};
use super::raw::{RawReading, RawServing};

macro_rules! spellings {
    ($options:literal) => {
        concat!(
            "Every option below ",
            $options,
            " can also be given as the environment variable KMS_NOTIFIER_SOME_OPTION or as \
             some-option in the TOML file of --config; --config itself as a variable only. The \
             command line beats the environment beats the file."
        )
    };
}

const SPELLINGS: &str =
    spellings!("\"Reading and deciding\" and \"Following and telling\" but --state-reset");
/// Of the commands that have no others.
const READING_SPELLINGS: &str = spellings!("\"Reading and deciding\"");

/// Follows the log of a KMS server and tells what happened.
#[derive(Debug, Parser)]
#[command(name = "kms-notifier", version, disable_help_subcommand = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: CliCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum CliCommand {
    /// Follow logs, or run a server and read it; post, count and print what happens
    #[command(after_help = SPELLINGS)]
    Run(RunArgs),
    /// Read recordings from start to end and print what happened
    #[command(after_help = READING_SPELLINGS)]
    Replay(ReplayArgs),
    /// Check what `run` would be given; print it and where each value came from
    #[command(after_help = SPELLINGS)]
    CheckConfig(RunArgs),
    /// Send one message now
    #[command(after_help = SPELLINGS)]
    TestNotify(TestArgs),
    /// List messages that Slack refused for good, tell them after all, or drop them
    #[command(after_help = SPELLINGS)]
    DeadLetters(DeadLettersArgs),
    /// Tell why a line of a log became what it became
    #[command(after_help = READING_SPELLINGS)]
    Explain(ExplainArgs),
    /// Write man pages and shell completions
    #[command(hide = true)]
    Generate(::cli::Generate),
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// TOML file to read further options from
    #[arg(long, value_name = "PATH")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) reading: RawReading,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) serving: RawServing,
    /// Remove the state first: positions, unsent messages and who was told
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Following and telling")]
    pub(super) state_reset: bool,
    /// A server to start; its standard output is the log
    #[arg(last = true, value_name = "CMD", help_heading = "Arguments")]
    pub(super) child: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) serving: RawServing,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Recordings, `.gz` too; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// The files are pieces of one log, oldest first
    #[arg(long, action = ArgAction::SetTrue)]
    pub(super) joined: bool,
    /// What to print: table (with a summary) or json (as `run` prints it)
    #[arg(long, value_enum, default_value = "table", hide_possible_values = true)]
    pub(super) format: ReplayFormat,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The log
    pub(super) file: PathBuf,
    /// The line's number, from 1
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) line: u64,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct DeadLettersArgs {
    /// What to do: list, retry or drop
    #[arg(value_enum, hide_possible_values = true)]
    pub(super) action: DeadLettersAction,
    /// Which messages to retry or drop: their numbers in the list
    #[arg(value_name = "NUMBER")]
    pub(super) ids: Vec<u64>,
    /// All of them
    #[arg(long, action = ArgAction::SetTrue)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) serving: RawServing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DeadLettersAction {
    List,
    Retry,
    Drop,
}

/// What `replay` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReplayFormat {
    /// A table of events and a summary, for people.
    Table,
    /// One JSON object per event and line, as `run` prints them.
    Json,
}

/// The whole command, with the short form `--format` of `--input-format` where
/// nothing else has that name.
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    for name in ["run", "check-config", "test-notify", "dead-letters"] {
        command = command.mut_subcommand(name, |sub| {
            sub.mut_arg("input_format", |arg| arg.visible_alias("format"))
        });
    }
    command
}

/// Reads the command line, the program's name first.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<CliCommand, Stop> {
    let parsed = command()
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    parsed
        .map(|cli| cli.command)
        .map_err(|error| stop(&error, "kms-notifier"))
}

/// What clap found wrong with the arguments of `program`, or the help it was
/// asked for.
pub(super) fn stop(error: &clap::Error, program: &str) -> Stop {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            Stop::Help(error.render().to_string())
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => ConfigError::line(
            "no command given; try `kms-notifier run --log PATH` or `kms-notifier --help`",
        )
        .into(),
        kind => {
            let mut line = one_line(&error.render().to_string());
            let unknown = matches!(
                kind,
                ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand
            );
            if unknown && !line.contains("; tip: ") {
                line.push_str(&format!("; `{program} --help` lists what there is"));
            }
            ConfigError::line(line).into()
        }
    }
}

/// What clap says, without the usage it repeats each time.
fn one_line(rendered: &str) -> String {
    let said = rendered
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        // How to pass a dashed value is no help to who misspelt a flag.
        .filter(|line| !line.is_empty() && !line.starts_with("tip: to pass "));
    let line = said.collect::<Vec<_>>().join("; ");
    line.strip_prefix("error: ")
        .unwrap_or(&line)
        .replace(":; ", ": ")
}
