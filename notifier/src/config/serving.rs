//! What the sidecar itself is told: which logs, where to post, where to serve.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::{ConfigError, Origin};
use super::layers::{LAYERS, Layers, read_bounded};
use super::raw::Secret;
use super::state::{State, state};
use super::store::{DedupStore, dedup_store};
use super::value::{
    Count, FirstRun, Line, Setting, Size, StartFrom, check_webhook, is_name, is_name_byte,
};
use super::{Reading, reading, roots::roots};
use crate::sink::slack::{Icon, Roots};
use crate::source::tail::{Rotate, RotatedGlob, numbered};

const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 9101);
const SLACK_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(300);
const SILENCE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(31 * 24 * 3600);
/// Below that, renaming is most of what happens.
const MIN_ROTATE_AT: Size = Size(64 << 10);
const ROTATE_KEEP: RangeInclusive<Count> = Count(1)..=Count(100);
/// Most logs followed by one process; each has a thread.
const MAX_LOGS: usize = 64;
/// Longest webhook file in bytes.
const MAX_WEBHOOK_FILE: u64 = 4096;

/// All that `run` needs to know.
#[derive(Debug)]
pub struct Config {
    /// How lines are read and what is made of them.
    pub reading: Reading,
    /// The logs, their names unique, at most one of them standard input.
    pub logs: Vec<Log>,
    /// Where to begin in a file that exists at the start. To resume, there is a state.
    pub from: StartFrom,
    /// The same where nothing is known of an earlier run.
    pub first_run: FirstRun,
    /// What rotated files are called.
    pub rotated: RotatedGlob,
    /// Whether to rotate logs ourselves.
    pub rotate: Option<Rotate>,
    /// After how long no line is an alert.
    pub silence_after: Option<Duration>,
    /// Where to keep what outlives the program; none keeps it in memory only.
    pub state: Option<State>,
    /// By which store several sidecars agree on who tells.
    pub dedup_store: Option<DedupStore>,
    /// Where and how to post.
    pub slack: Slack,
    /// Where to serve metrics and health.
    pub metrics: Listen,
    /// Whether to serve the status page there.
    pub page: bool,
}

/// A log to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `[A-Za-z0-9._-]{1,64}`.
    pub name: Arc<str>,
    /// Where its bytes come from.
    pub input: Input,
}

/// Where a log's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file that grows, and may not exist yet.
    File(PathBuf),
    /// Standard input, to its end.
    Stdin,
    /// The standard output of a program to start: its name or path, and its arguments.
    Child(OsString, Vec<OsString>),
}

/// Where and how to post. Texts have no control characters.
#[derive(Clone, Debug)]
pub struct Slack {
    /// https, or http to this machine. Without one, messages go to the log.
    pub webhook: Option<Secret>,
    pub(super) webhook_origin: Origin,
    /// Who may vouch for the webhook's host.
    pub roots: Roots,
    /// Channel in place of the webhook's own.
    pub channel: Option<String>,
    /// Name in place of the webhook's own.
    pub username: Option<String>,
    /// Icon in place of the webhook's own.
    pub icon: Option<Icon>,
    /// Longest wait for an answer.
    pub timeout: Duration,
}

impl Slack {
    /// What to tell the user when the webhook cannot be posted to.
    #[must_use]
    pub fn error(&self, what: impl fmt::Display) -> ConfigError {
        ConfigError::new(&self.webhook_origin, what)
    }
}

/// An address to listen on, and who said so.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    pub(super) origin: Origin,
}

impl Listen {
    /// What to tell the user when the address cannot be had.
    #[must_use]
    pub fn error(&self, error: &io::Error) -> ConfigError {
        let address = self.address;
        let what = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "{address} is in use; stop what listens there, or give another port (0 takes a free one)"
            ),
            io::ErrorKind::PermissionDenied => {
                format!("{address} is not allowed to this user; give a port above 1023")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("{address} is not an address of this machine; give one that is, or [::]")
            }
            _ => format!("cannot listen on {address}: {error}; give another address"),
        };
        ConfigError::new(&self.origin, what)
    }
}

impl Config {
    pub(super) fn require_log(&self) -> Result<(), ConfigError> {
        if self.logs.is_empty() {
            return Err(ConfigError::new(
                &Origin::Default("log"),
                "nothing to read; give --log PATH, --log - for standard input, or -- CMD ARGS… to \
                 start the server",
            ));
        }
        Ok(())
    }

    pub(super) fn require_state(&self) -> Result<&State, ConfigError> {
        self.state.as_ref().ok_or_else(|| {
            ConfigError::new(
                &Origin::Default("state"),
                "dead letters are kept in a state; give the --state PATH of the sidecar",
            )
        })
    }

    pub(super) fn require_webhook(&self) -> Result<(), ConfigError> {
        if self.slack.webhook.is_none() {
            return Err(ConfigError::new(
                &Origin::Default("slack-webhook-url"),
                "no webhook to send to; give one, best in a file by --slack-webhook-url-file",
            ));
        }
        Ok(())
    }
}

pub(super) fn config(
    layers: &mut Layers,
    child: Vec<OsString>,
    state_reset: bool,
) -> Result<Config, ConfigError> {
    let logs = logs(layers, child)?;
    let state = state(layers, state_reset)?;
    let from = from(layers, state.is_some())?;
    let first_run = layers.value("first-run", |raw| &raw.serving.first_run, FirstRun::End)?;
    let (rotated, rotate) = rotation(layers, &logs)?;
    let silence_after = layers.bounded(
        "silence-after",
        |raw| &raw.serving.silence_after,
        Duration::ZERO,
        &SILENCE,
    )?;
    let reading = reading(layers)?;
    let slack = slack(layers)?;
    let dedup_store = dedup_store(layers, reading.dedup_window, slack.webhook.is_some())?;
    Ok(Config {
        logs,
        state,
        from,
        first_run,
        rotated,
        rotate,
        silence_after: Some(silence_after).filter(|after| !after.is_zero()),
        reading,
        dedup_store,
        slack,
        metrics: listen(layers)?,
        page: !layers.value("no-page", |raw| &raw.serving.no_page, false)?,
    })
}

fn rotation(
    layers: &mut Layers,
    logs: &[Log],
) -> Result<(RotatedGlob, Option<Rotate>), ConfigError> {
    const GLOB_KEY: &str = "rotated-glob";
    const AT_KEY: &str = "rotate-at";
    const KEEP_KEY: &str = "rotate-keep";
    let rotated = layers.value(
        GLOB_KEY,
        |raw| &raw.serving.rotated_glob,
        RotatedGlob::default(),
    )?;
    let at: Option<Size> = layers.optional(AT_KEY, |raw| &raw.serving.rotate_at)?;
    let Count(keep) = layers.bounded(
        KEEP_KEY,
        |raw| &raw.serving.rotate_keep,
        Count(3),
        &ROTATE_KEEP,
    )?;
    let (Some(Size(at)), Some((_, origin, _))) =
        (at, layers.pick(AT_KEY, |raw| &raw.serving.rotate_at))
    else {
        return Ok((rotated, None));
    };
    if at < MIN_ROTATE_AT.0 {
        let what = format!(
            "{} is too small; give {} or more",
            Size(at).show(),
            MIN_ROTATE_AT.show()
        );
        return Err(ConfigError::new(&origin, what));
    }
    for log in logs {
        // A restart must find what was renamed just before it.
        if let Input::File(path) = &log.input
            && !rotated.matches(path, &numbered(path, 1))
        {
            let what = format!(
                "{} would be renamed to {}, which --{GLOB_KEY} {rotated} does not match; \
                 give one that does",
                path.display(),
                numbered(path, 1).display()
            );
            return Err(ConfigError::new(&origin, what));
        }
    }
    let at = at as u64;
    Ok((rotated, Some(Rotate { at, keep })))
}

fn from(layers: &mut Layers, has_state: bool) -> Result<StartFrom, ConfigError> {
    let default = if has_state {
        StartFrom::Resume
    } else {
        StartFrom::End
    };
    let from = layers.value("from", |raw| &raw.serving.from, default)?;
    match layers.pick("from", |raw| &raw.serving.from) {
        Some((_, origin, _)) if from == StartFrom::Resume && !has_state => Err(ConfigError::new(
            &origin,
            "there is no state to resume from; give --state PATH, or end or start",
        )),
        _ => Ok(from),
    }
}

fn slack(layers: &mut Layers) -> Result<Slack, ConfigError> {
    // An empty text takes a lower place's away again.
    let text = |line: Option<Line>| line.map(|Line(text)| text).filter(|text| !text.is_empty());
    let (webhook, webhook_origin) = webhook(layers)?;
    Ok(Slack {
        webhook,
        webhook_origin,
        roots: roots(layers)?,
        channel: text(layers.optional("slack-channel", |raw| &raw.serving.slack_channel)?),
        username: text(layers.optional("slack-username", |raw| &raw.serving.slack_username)?),
        icon: layers
            .optional("slack-icon", |raw| &raw.serving.slack_icon)?
            .and_then(|Picture(icon)| icon),
        timeout: layers.bounded(
            "slack-timeout",
            |raw| &raw.serving.slack_timeout,
            Duration::from_secs(10),
            &SLACK_TIMEOUT,
        )?,
    })
}

/// An icon; with an empty text none, whatever a lower place says.
struct Picture(Option<Icon>);

impl Setting for Picture {
    fn parse(text: &str) -> Result<Self, String> {
        let Line(text) = Line::parse(text)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let icon: Result<Icon, _> = text.parse();
        icon.map(|icon| Self(Some(icon)))
            .map_err(|error| error.to_string())
    }

    fn show(&self) -> String {
        match &self.0 {
            Some(Icon::Emoji(text) | Icon::Url(text)) => text.clone(),
            None => String::new(),
        }
    }
}

/// The webhook, and who gave it: as such or in a file, not both in one place. A
/// higher place's one beats a lower place's other.
fn webhook(layers: &mut Layers) -> Result<(Option<Secret>, Origin), ConfigError> {
    const KEY: &str = "slack-webhook-url";
    const FILE_KEY: &str = "slack-webhook-url-file";
    for layer in LAYERS {
        let raw = &layers.raw(layer).serving;
        let (url, origin) = match (&raw.slack_webhook_url, &raw.slack_webhook_url_file) {
            (None, None) => continue,
            (Some(_), Some(_)) => {
                let (url, file) = (layers.origin(layer, KEY), layers.origin(layer, FILE_KEY));
                return Err(ConfigError::new(
                    &url,
                    format_args!("{file} is given too; give one"),
                ));
            }
            (Some(url), None) => (url.clone(), layers.origin(layer, KEY)),
            (None, Some(path)) => {
                let origin = layers.origin(layer, FILE_KEY);
                let url = read_bounded(Path::new(&**path), MAX_WEBHOOK_FILE).map_err(|error| {
                    let what = format!("cannot read {}: {error}; give a readable file", &**path);
                    ConfigError::new(&origin, what)
                })?;
                (Secret::from(url.trim().to_owned()), origin)
            }
        };
        check_webhook(url.expose()).map_err(|what| ConfigError::new(&origin, what))?;
        layers.effective.add(KEY, "[redacted]", origin.clone());
        return Ok((Some(url), origin));
    }
    layers.effective.add(KEY, "", Origin::Default(KEY));
    Ok((None, Origin::Default(KEY)))
}

/// The address and the port may be given apart; the port of the higher place counts.
fn listen(layers: &mut Layers) -> Result<Listen, ConfigError> {
    const KEY: &str = "metrics-listen";
    const PORT_KEY: &str = "metrics-port";
    let wrong = |origin: &Origin, what: String| ConfigError::new(origin, what);
    let address = match layers.pick(KEY, |raw| &raw.serving.metrics_listen) {
        None => None,
        Some((text, origin, layer)) => {
            let address = SocketAddr::parse(&text).map_err(|what| wrong(&origin, what))?;
            Some((address, origin, layer))
        }
    };
    let port = match layers.pick(PORT_KEY, |raw| &raw.serving.metrics_port) {
        None => None,
        Some((text, origin, layer)) => {
            let port = u16::parse(&text).map_err(|what| wrong(&origin, what))?;
            Some((port, origin, layer))
        }
    };
    let (address, origin) = match (address, port) {
        (None, None) => (DEFAULT_LISTEN, Origin::Default(KEY)),
        (None, Some((port, origin, _))) => (SocketAddr::new(DEFAULT_LISTEN.ip(), port), origin),
        (Some((address, origin, _)), None) => (address, origin),
        (Some((address, origin, layer)), Some((port, port_origin, port_layer))) => {
            if layer == port_layer && address.port() != port {
                let what = format!("{address} and {port_origin} {port} differ; give one of them");
                return Err(wrong(&origin, what));
            }
            if port_layer < layer {
                (SocketAddr::new(address.ip(), port), port_origin)
            } else {
                (address, origin)
            }
        }
    };
    layers.effective.add(KEY, address.show(), origin.clone());
    Ok(Listen { address, origin })
}

fn logs(layers: &mut Layers, child: Vec<OsString>) -> Result<Vec<Log>, ConfigError> {
    let (typed, origin) = match layers.pick("log", |raw| &raw.serving.log) {
        Some((typed, origin, _)) => (typed, origin),
        None => (Vec::new(), Origin::Default("log")),
    };
    let mut logs: Vec<Log> = Vec::new();
    for text in &typed {
        logs.push(log(text).map_err(|what| ConfigError::new(&origin, what))?);
    }
    let mut child = child.into_iter();
    if let Some(program) = child.next() {
        logs.push(Log {
            name: "child".into(),
            input: Input::Child(program, child.collect()),
        });
    }
    if logs.len() > MAX_LOGS {
        let what = format!("{} logs are too many; give at most {MAX_LOGS}", logs.len());
        return Err(ConfigError::new(&origin, what));
    }
    for (i, log) in logs.iter().enumerate() {
        for other in logs.iter().take(i) {
            let what = if other.input == log.input {
                format!(
                    "{} and {} are the same log; give it once",
                    other.name, log.name
                )
            } else if other.name == log.name {
                format!("two logs are called {}; name one with NAME=PATH", log.name)
            } else {
                continue;
            };
            return Err(ConfigError::new(&origin, what));
        }
    }
    let shown: Vec<_> = logs.iter().map(shown).collect();
    layers.effective.add("log", shown.join(" "), origin);
    Ok(logs)
}

/// Reads `NAME=PATH`, `PATH` or `-`. A `=` after a `/` belongs to the path.
fn log(text: &str) -> Result<Log, String> {
    if text.chars().any(char::is_control) {
        return Err(format!(
            "{text:?} has control characters; give another path"
        ));
    }
    let (name, path) = match text.split_once('=') {
        Some((name, path)) if !name.contains('/') => (Some(name), path),
        _ => (None, text),
    };
    let input = if path == "-" {
        Input::Stdin
    } else {
        Input::File(path.into())
    };
    let name = match (name, &input) {
        (Some(name), _) if is_name(name) => name.to_owned(),
        (Some(name), _) => {
            return Err(format!(
                "{name:?} cannot name a log; use 1 to 64 of A-Z a-z 0-9 . _ -"
            ));
        }
        (None, Input::Stdin) => "stdin".to_owned(),
        (None, _) => file_name(path),
    };
    if path.ends_with('/') || name.is_empty() || path.is_empty() {
        return Err(format!("{text:?} is not a file; give PATH, NAME=PATH or -"));
    }
    Ok(Log {
        name: name.into(),
        input,
    })
}

/// The file's name, as far as it may name a log; empty where there is none.
fn file_name(path: &str) -> String {
    let name = Path::new(path)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.bytes()
        .map(|b| if is_name_byte(b) { char::from(b) } else { '_' })
        .take(64)
        .collect()
}

fn shown(log: &Log) -> String {
    match &log.input {
        Input::File(path) => format!("{}={}", log.name, path.display()),
        Input::Stdin => format!("{}=-", log.name),
        Input::Child(program, args) => {
            let program = program.to_string_lossy();
            format!(
                "{}={} ({} arguments)",
                log.name,
                program.escape_debug(),
                args.len()
            )
        }
    }
}
