//! The three places a value may come from, and which one counts: the command
//! line beats the environment beats the file.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Value;

use super::error::{ConfigError, Origin};
use super::raw::{Raw, RawConfig, Text};
use super::shown::Effective;
use super::value::Setting;

/// Reads one environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where systemd says that state belongs; of several directories the first.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// Longest configuration file in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A place; an earlier one beats a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum Layer {
    CommandLine,
    Environment,
    File,
}

pub(super) const LAYERS: [Layer; 3] = [Layer::CommandLine, Layer::Environment, Layer::File];

/// All that was said anywhere, and what was made of it so far.
pub(super) struct Layers<R = RawConfig> {
    command_line: R,
    environment: R,
    /// Which variable gave a key.
    variables: BTreeMap<String, Arc<str>>,
    file: R,
    path: Arc<Path>,
    /// Where a key was given by another of its names, and by which.
    aliases: Vec<(Layer, &'static str, &'static str)>,
    /// Where state belongs if nobody says otherwise.
    state_directory: Option<PathBuf>,
    /// For `check-config`: filled as values are taken.
    pub(super) effective: Effective,
    /// What is odd and does not stop anything.
    pub(super) warnings: Vec<String>,
}

impl<R: Raw> Layers<R> {
    /// Gathers the environment and the file beside what the command line said.
    pub(super) fn gather(
        command_line: R,
        config_file: Option<&Path>,
        env: Environment<'_>,
    ) -> Result<Self, ConfigError> {
        let mut warnings = Vec::new();
        let (environment, variables) = from_environment(env, &mut warnings)?;
        // A file cannot name itself, so this is no key.
        let config_variable = variable::<R>("config");
        let variable = env(&config_variable)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let (path, named_by) = match config_file {
            Some(path) => (Some(path.to_owned()), "--config"),
            None => (variable, &*config_variable),
        };
        let mut aliases = Vec::new();
        let file = match &path {
            Some(path) => from_file(path, named_by, &mut aliases)?,
            None => R::default(),
        };
        Ok(Self {
            command_line,
            environment,
            variables,
            file,
            path: path.unwrap_or_default().into(),
            aliases,
            state_directory: state_directory(env),
            effective: Effective::default(),
            warnings,
        })
    }

    /// Notes which names the command line's options have in `args`: what is parsed
    /// does not say. A flag of such a name that is another option (`replay
    /// --format`) is harmless: then the key is not given, or by its own name.
    pub(super) fn note_flags(&mut self, args: &[OsString]) {
        let given = |name: &str| {
            args.iter()
                .take_while(|arg| *arg != "--")
                .filter_map(|arg| arg.as_bytes().strip_prefix(b"--"))
                .any(|arg| arg.split(|byte| *byte == b'=').next() == Some(name.as_bytes()))
        };
        for (key, other) in R::OTHER_KEYS {
            if given(other) && !given(key) {
                self.aliases.push((Layer::CommandLine, key, other));
            }
        }
    }

    pub(super) fn raw(&self, layer: Layer) -> &R {
        match layer {
            Layer::CommandLine => &self.command_line,
            Layer::Environment => &self.environment,
            Layer::File => &self.file,
        }
    }

    pub(super) fn origin(&self, layer: Layer, key: &'static str) -> Origin {
        let spelled = spelled(&self.aliases, layer, key).unwrap_or(key);
        match layer {
            Layer::CommandLine => Origin::Flag(spelled),
            Layer::Environment => {
                let name = self.variables.get(key).cloned();
                Origin::Environment(name.unwrap_or_else(|| variable::<R>(key).into()))
            }
            Layer::File => Origin::File {
                key: spelled,
                path: Arc::clone(&self.path),
            },
        }
    }

    /// A file of this name where state belongs, and who says so.
    pub(super) fn default_state(&self, name: &str) -> Option<(PathBuf, Origin)> {
        let directory = self.state_directory.as_ref()?;
        let origin = Origin::Environment(STATE_DIRECTORY.into());
        Some((directory.join(name), origin))
    }

    /// The value that counts, as it was typed.
    pub(super) fn pick<T: Clone>(
        &self,
        key: &'static str,
        field: impl Fn(&R) -> &Option<T>,
    ) -> Option<(T, Origin, Layer)> {
        LAYERS.into_iter().find_map(|layer| {
            let value = field(self.raw(layer)).clone()?;
            Some((value, self.origin(layer, key), layer))
        })
    }

    /// The value that counts, if any, understood and noted for `check-config`.
    pub(super) fn optional<T: Setting>(
        &mut self,
        key: &'static str,
        field: impl Fn(&R) -> &Option<Text>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((text, origin, _)) = self.pick(key, field) else {
            self.effective.add(key, "", Origin::Default(key));
            return Ok(None);
        };
        let value = T::parse(&text).map_err(|what| ConfigError::new(&origin, what))?;
        self.effective.add(key, value.show(), origin);
        Ok(Some(value))
    }

    /// The value that counts, or the default.
    pub(super) fn value<T: Setting>(
        &mut self,
        key: &'static str,
        field: impl Fn(&R) -> &Option<Text>,
        default: T,
    ) -> Result<T, ConfigError> {
        let (value, origin) = match self.pick(key, field) {
            Some((text, origin, _)) => (
                T::parse(&text).map_err(|what| ConfigError::new(&origin, what))?,
                origin,
            ),
            None => (default, Origin::Default(key)),
        };
        self.effective.add(key, value.show(), origin);
        Ok(value)
    }

    /// Like [`Layers::value`], for a value that has bounds.
    pub(super) fn bounded<T: Setting + PartialOrd>(
        &mut self,
        key: &'static str,
        field: impl Fn(&R) -> &Option<Text>,
        default: T,
        bounds: &RangeInclusive<T>,
    ) -> Result<T, ConfigError> {
        let value = self.value(key, &field, default)?;
        match self.pick(key, field) {
            Some((_, origin, _)) if !bounds.contains(&value) => {
                let (low, high) = (bounds.start().show(), bounds.end().show());
                let what = format!("{} is out of bounds; give {low} to {high}", value.show());
                Err(ConfigError::new(&origin, what))
            }
            _ => Ok(value),
        }
    }
}

fn state_directory(env: Environment<'_>) -> Option<PathBuf> {
    let directories = env(STATE_DIRECTORY)?;
    let first = directories.as_bytes().split(|byte| *byte == b':').next()?;
    (!first.is_empty()).then(|| OsStr::from_bytes(first).into())
}

/// `slack-timeout` becomes `KMS_NOTIFIER_SLACK_TIMEOUT`.
fn variable<R: Raw>(key: &str) -> String {
    let key = key.to_ascii_uppercase().replace('-', "_");
    format!("{}{key}", R::PREFIX)
}

fn from_environment<R: Raw>(
    env: Environment<'_>,
    warnings: &mut Vec<String>,
) -> Result<(R, BTreeMap<String, Arc<str>>), ConfigError> {
    let mut table = toml::Table::new();
    let mut variables = BTreeMap::new();
    for key in R::keys() {
        let others = R::OTHER_VARIABLES.iter().filter(|(known, _)| *known == key);
        let names =
            std::iter::once(variable::<R>(&key)).chain(others.map(|(_, name)| (*name).into()));
        let mut chosen: Option<(Arc<str>, String)> = None;
        for name in names {
            let Some(value) = env(&name).filter(|value| !value.is_empty()) else {
                continue;
            };
            let value = value.into_string().map_err(|_| {
                ConfigError::line(format_args!("{name}: is not UTF-8; give plain text"))
            })?;
            // Kubernetes gives every pod `<SERVICE>_PORT=tcp://…` for a Service of that name.
            if key == "metrics-port" && value.starts_with("tcp://") {
                warnings.push(format!(
                    "{name} is ignored: its value (tcp://…) is what Kubernetes sets for a Service \
                     of that name, not a port"
                ));
                continue;
            }
            match &chosen {
                None => chosen = Some((name.into(), value)),
                Some((winner, other)) if *other != value => warnings.push(format!(
                    "{winner} and {name} have different values; {winner} counts, unset the other"
                )),
                Some(_) => {}
            }
        }
        if let Some((name, value)) = chosen {
            table.insert(key.clone(), split_list(&key, &name, value));
            variables.insert(key, name);
        }
    }
    match R::from_table(&table) {
        Ok(raw) => Ok((raw, variables)),
        Err((key, what)) => Err(ConfigError::line(format_args!(
            "{}: {what}",
            variable::<R>(&key)
        ))),
    }
}

/// Lists whose elements may themselves hold commas, or that one variable must
/// hold whole. Networks are split where they are read.
fn split_list(key: &str, name: &str, value: String) -> Value {
    let separator = match key {
        "classes" => ';',
        // The ancestor's variable holds one path, commas and all.
        "log" if name != "VLMCSD_LOG" => ',',
        _ => return Value::String(value),
    };
    let parts = value
        .split(separator)
        .map(str::trim)
        .filter(|part| !part.is_empty());
    Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
}

/// Reads a small text file.
///
/// # Errors
/// The file system's, or that it is larger than `max` bytes or not UTF-8.
pub(super) fn read_bounded(path: &Path, max: u64) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(max + 1).read_to_string(&mut text)?;
    if read as u64 > max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {max} bytes"),
        ));
    }
    Ok(text)
}

/// By which of its other names a key was given there, if it was.
fn spelled(
    aliases: &[(Layer, &'static str, &'static str)],
    layer: Layer,
    key: &str,
) -> Option<&'static str> {
    let given = aliases
        .iter()
        .find(|(at, of, _)| (*at, *of) == (layer, key));
    given.map(|(.., spelled)| *spelled)
}

fn from_file<R: Raw>(
    path: &Path,
    named_by: &str,
    aliases: &mut Vec<(Layer, &'static str, &'static str)>,
) -> Result<R, ConfigError> {
    let shown = path.display();
    let text = read_bounded(path, MAX_FILE).map_err(|error| {
        ConfigError::line(format_args!(
            "{named_by}: cannot read {shown}: {error}; give a TOML file"
        ))
    })?;
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        // The message alone: the error's own text quotes the line, secrets and all.
        let what = error.message().replace('\n', "; ");
        ConfigError::line(format_args!(
            "{named_by}: {shown} is not TOML, line {line}: {what}"
        ))
    })?;
    for (key, other) in R::OTHER_KEYS {
        if let Some(value) = table.remove(*other) {
            if table.insert((*key).to_owned(), value).is_some() {
                return Err(ConfigError::line(format_args!(
                    "{other} in {shown}: {key} is the same and is given too; give one"
                )));
            }
            aliases.push((Layer::File, key, other));
        }
    }
    let keys = R::keys();
    if let Some(unknown) = table.keys().find(|key| !keys.contains(key)) {
        let likely = unknown.to_lowercase().replace('_', "-");
        let closest = keys
            .iter()
            .map(|key| (strsim::jaro_winkler(key, &likely), key))
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .filter(|(likeness, _)| *likeness > 0.7);
        let hint = match closest {
            Some((_, key)) => format!("did you mean {key}?"),
            None => format!("`{} --help` lists the keys", R::COMMAND),
        };
        let unknown = unknown.escape_debug();
        return Err(ConfigError::line(format_args!(
            "{unknown} in {shown}: no such key; {hint}"
        )));
    }
    R::from_table(&table).map_err(|(key, what)| {
        let spelled = spelled(aliases, Layer::File, &key).unwrap_or(&key);
        ConfigError::line(format_args!("{spelled} in {shown}: {what}"))
    })
}
