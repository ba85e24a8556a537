//! What the program is told to do: command line, environment and TOML file
//! (docs/configuration.md).
//!
//! In two steps: `raw` mirrors what was typed, and [`load`] makes of it values
//! that need no further check. Nothing is printed here and nothing but the
//! configuration file and the files it names (webhook, password, authorities) is
//! read; the environment comes in as a function.

mod classes;
mod cli;
pub mod diag;
mod error;
mod layers;
mod raw;
mod roots;
mod serving;
mod shown;
mod state;
mod store;
mod value;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::tz::TimeZone;
use tracing::level_filters::LevelFilter;

use crate::policy::{Classes, Selection};
use crate::sink::state::control::Request;

use classes::classes;
use cli::{CliCommand, Common, DeadLettersAction, DeadLettersArgs, RunArgs};
use layers::Layers;
use raw::{Raw, RawConfig, RawServing, Text};
use value::Size;

pub use cli::{ReplayFormat, command};
pub use error::{ConfigError, Origin, Stop};
pub use layers::Environment;
pub use raw::Secret;
pub use serving::{Config, Input, Listen, Log, Slack};
pub use shown::Effective;
pub use state::State;
pub use store::DedupStore;
pub use value::{FirstRun, InputFormat, LogFormat, StartFrom};

/// Bounds of a line's length in bytes. The lower one still holds a forged
/// workstation name with its label, which the reading of a block must see whole.
const MAX_LINE: std::ops::RangeInclusive<Size> = Size(1 << 10)..=Size(16 << 20);

/// A month: longer, and a window is not about repeats any more.
const DEDUP_WINDOW: std::ops::RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(31 * 24 * 3600);

/// A century is as good as for ever; below a minute nothing would be posted alone.
const POST_MAX_AGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(36_500 * 24 * 3600);

/// What to do, everything checked.
#[derive(Debug)]
pub enum Command {
    /// Follow logs.
    Run(Box<Config>),
    /// Read recordings.
    Replay(Replay),
    /// Print [`Loaded::effective`].
    CheckConfig(Box<Config>),
    /// Send one message. There is a webhook.
    TestNotify(Box<Config>),
    /// Look at, retry or drop messages that were refused for good.
    DeadLetters(DeadLetters),
    /// Tell about one line.
    Explain(Explain),
}

/// What `dead-letters` was told.
#[derive(Debug)]
pub struct DeadLetters {
    /// What to do.
    pub request: Request,
    /// The state that they are in.
    pub state: State,
    /// How to decide, where no sidecar does.
    pub reading: Reading,
}

/// What `replay` was told.
#[derive(Debug)]
pub struct Replay {
    /// Files to read; `-` is standard input. At least one.
    pub files: Vec<PathBuf>,
    /// Whether the files are pieces of one log, oldest first.
    pub joined: bool,
    /// What to print.
    pub format: ReplayFormat,
    /// How to read and decide.
    pub reading: Reading,
}

/// What `explain` was told.
#[derive(Debug)]
pub struct Explain {
    /// The log.
    pub file: PathBuf,
    /// The line's number, from 1.
    pub line: u64,
    /// How to read and decide.
    pub reading: Reading,
}

/// How lines are read and what is made of them.
#[derive(Clone, Debug)]
pub struct Reading {
    /// How lines are wrapped.
    pub input_format: InputFormat,
    /// Time zone of the server's stamps.
    pub timezone: TimeZone,
    /// Longest line kept whole, in bytes.
    pub max_line: usize,
    /// Source classes; what none of them holds is `external`.
    pub classes: Classes,
    /// How long the same client and product is not told again.
    pub dedup_window: Duration,
    /// Whether refused requests are posted.
    pub post_refused: bool,
    /// What happened longer ago is posted in digests only.
    pub post_max_age: Duration,
    /// Form of the program's own log.
    pub log_format: LogFormat,
    /// What the program's own log holds.
    pub log_level: LevelFilter,
}

/// A command, and what came up on the way to it.
#[derive(Debug)]
pub struct Loaded {
    /// What to do.
    pub command: Command,
    /// What is odd and stops nothing: one line each, for the log.
    pub warnings: Vec<String>,
    /// What `check-config` prints.
    pub effective: Effective,
}

/// Reads the command line (the program's name first), the environment and the
/// configuration file.
///
/// # Errors
/// [`Stop::Help`] or [`Stop::Generate`] where that was asked for, [`Stop::Config`]
/// where something is wrong.
pub fn load(
    args: impl IntoIterator<Item = OsString>,
    env: Environment<'_>,
) -> Result<Loaded, Stop> {
    let typed: Vec<OsString> = args.into_iter().collect();
    let typed = Typed { args: &typed, env };
    let (command, layers) = match cli::parse(typed.args.iter().cloned())? {
        CliCommand::Generate(what) => return Err(Stop::Generate(what)),
        CliCommand::Run(args) => {
            let (config, layers) = run(args, &typed)?;
            (Command::Run(config), layers)
        }
        CliCommand::CheckConfig(args) => {
            let (config, layers) = run(args, &typed)?;
            (Command::CheckConfig(config), layers)
        }
        CliCommand::TestNotify(args) => {
            let mut layers = gather(args.common, args.serving, &typed)?;
            let config = serving::config(&mut layers, Vec::new(), false)?;
            config.require_webhook()?;
            (Command::TestNotify(Box::new(config)), layers)
        }
        CliCommand::DeadLetters(args) => {
            let (what, layers) = dead_letters(args, &typed)?;
            (Command::DeadLetters(what), layers)
        }
        CliCommand::Replay(args) => {
            let mut layers = gather(args.common, RawServing::default(), &typed)?;
            let reading = reading(&mut layers)?;
            let (files, joined, format) = (args.files, args.joined, args.format);
            (
                Command::Replay(Replay {
                    files,
                    joined,
                    format,
                    reading,
                }),
                layers,
            )
        }
        CliCommand::Explain(args) => {
            let mut layers = gather(args.common, RawServing::default(), &typed)?;
            let reading = reading(&mut layers)?;
            (
                Command::Explain(Explain {
                    file: args.file,
                    line: args.line,
                    reading,
                }),
                layers,
            )
        }
    };
    Ok(Loaded {
        command,
        warnings: layers.warnings,
        effective: layers.effective,
    })
}

/// What was typed: the command line as it came, and the environment.
struct Typed<'a> {
    args: &'a [OsString],
    env: Environment<'a>,
}

fn run(args: RunArgs, typed: &Typed<'_>) -> Result<(Box<Config>, Layers), ConfigError> {
    let mut layers = gather(args.common, args.serving, typed)?;
    let config = serving::config(&mut layers, args.child, args.state_reset)?;
    config.require_log()?;
    Ok((Box::new(config), layers))
}

fn dead_letters(
    args: DeadLettersArgs,
    typed: &Typed<'_>,
) -> Result<(DeadLetters, Layers), ConfigError> {
    let which = || match (args.all, args.ids.is_empty()) {
        (true, true) => Ok(Selection::All),
        (false, false) => Ok(Selection::Ids(args.ids.clone())),
        _ => Err(ConfigError::line(
            "which dead letters? give their numbers, or --all (and not both)",
        )),
    };
    let request = match args.action {
        DeadLettersAction::List => Request::List,
        DeadLettersAction::Retry => Request::Retry(which()?),
        DeadLettersAction::Drop => Request::Drop(which()?),
    };
    let mut layers = gather(args.common, args.serving, typed)?;
    let config = serving::config(&mut layers, Vec::new(), false)?;
    let state = config.require_state()?.clone();
    let what = DeadLetters {
        request,
        state,
        reading: config.reading,
    };
    Ok((what, layers))
}

fn gather(common: Common, serving: RawServing, typed: &Typed<'_>) -> Result<Layers, ConfigError> {
    let command_line = RawConfig {
        reading: common.reading,
        serving,
    };
    let mut layers = Layers::gather(command_line, common.config.as_deref(), typed.env)?;
    layers.note_flags(typed.args);
    Ok(layers)
}

fn reading(layers: &mut Layers) -> Result<Reading, ConfigError> {
    Ok(Reading {
        input_format: layers.value(
            "input-format",
            |raw| &raw.reading.input_format,
            InputFormat::Auto,
        )?,
        timezone: layers.value(
            "log-timezone",
            |raw| &raw.reading.log_timezone,
            TimeZone::UTC,
        )?,
        max_line: layers
            .bounded(
                "max-line",
                |raw| &raw.reading.max_line,
                Size(64 << 10),
                &MAX_LINE,
            )?
            .0,
        classes: classes(layers)?,
        dedup_window: layers.bounded(
            "dedup-window",
            |raw| &raw.reading.dedup_window,
            Duration::from_secs(3600),
            &DEDUP_WINDOW,
        )?,
        post_refused: layers.value("post-refused", |raw| &raw.reading.post_refused, false)?,
        post_max_age: layers.bounded(
            "post-max-age",
            |raw| &raw.reading.post_max_age,
            Duration::from_secs(24 * 3600),
            &POST_MAX_AGE,
        )?,
        log_format: layers.value(
            "log-format",
            |raw| &raw.reading.log_format,
            LogFormat::Human,
        )?,
        log_level: layers.value("log-level", |raw| &raw.reading.log_level, LevelFilter::INFO)?,
    })
}

/// The networks that an option of its own lists.
fn own_networks<R: Raw>(
    layers: &mut Layers<R>,
    key: &'static str,
    field: impl Fn(&R) -> &Option<Vec<Text>>,
    default: &str,
) -> Result<Vec<IpNet>, ConfigError> {
    networks(layers, key, field, default).map(|(networks, _)| networks)
}

/// The same, and who gave them.
fn networks<R: Raw>(
    layers: &mut Layers<R>,
    key: &'static str,
    field: impl Fn(&R) -> &Option<Vec<Text>>,
    default: &str,
) -> Result<(Vec<IpNet>, Origin), ConfigError> {
    let (texts, origin) = match layers.pick(key, field) {
        Some((texts, origin, _)) => (texts, origin),
        None => (vec![Text::from(default.to_owned())], Origin::Default(key)),
    };
    let mut networks = Vec::new();
    for text in &texts {
        networks.extend(value::networks(text).map_err(|what| ConfigError::new(&origin, what))?);
    }
    let shown: Vec<_> = networks.iter().map(ToString::to_string).collect();
    layers.effective.add(key, shown.join(","), origin.clone());
    Ok((networks, origin))
}

#[cfg(test)]
mod tests;
