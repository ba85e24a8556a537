//! Options from three places: the command line beats the environment beats the
//! file.
//!
//! clap knows the first two; the keys of the file become clap's default values. So
//! there is one list of options, and a value is checked alike wherever it is from.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// Longest configuration file in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The option that names the file; commands that have it take all three places.
const CONFIG: &str = "config";

/// Why there are no options.
pub(crate) enum Problem {
    /// Of the command line or the environment, or help was asked for.
    Clap(clap::Error),
    /// Of the file: one line.
    File(String),
}

impl From<clap::Error> for Problem {
    fn from(error: clap::Error) -> Self {
        Self::Clap(error)
    }
}

/// Parses `args`, whose first is the program's name.
pub(crate) fn matches(command: Command, args: &[OsString]) -> Result<ArgMatches, Problem> {
    let command = with_environment(command);
    // Where the file is, whatever else is wrong or missing.
    let first = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(args);
    let place = first.ok().and_then(|matches| {
        let (name, matches) = matches.subcommand()?;
        let path = matches.try_get_one::<PathBuf>(CONFIG).ok()??;
        Some((name.to_owned(), path.clone()))
    });
    let command = match place {
        Some((name, path)) => with_file(command, &name, &path).map_err(Problem::File)?,
        None => command,
    };
    Ok(command.try_get_matches_from(args)?)
}

/// Gives every option of a command with a file its variable, `KMS_CORE_` and the
/// option's name, unless that is empty: then it counts as unset.
fn with_environment(mut command: Command) -> Command {
    for sub in command.get_subcommands_mut() {
        let all = sub.get_arguments().any(|arg| arg.get_id() == CONFIG);
        let args: Vec<_> = sub.get_arguments().cloned().collect();
        let mut with_variables = sub.clone();
        for arg in args {
            let variable = arg.get_env().map(OsString::from).or_else(|| {
                let long = arg.get_long().filter(|_| all)?;
                Some(format!("KMS_CORE_{}", long.to_uppercase().replace('-', "_")).into())
            });
            let Some(variable) = variable else { continue };
            let is_empty = std::env::var_os(&variable).is_some_and(|value| value.is_empty());
            with_variables = with_variables.mut_arg(arg.get_id().clone(), |arg| {
                if is_empty {
                    arg.env(Resettable::Reset)
                } else {
                    arg.env(variable).hide_env_values(true)
                }
            });
        }
        *sub = with_variables;
    }
    command
}

/// Makes the file's keys the default values of a command's options.
fn with_file(command: Command, name: &str, path: &Path) -> Result<Command, String> {
    let shown = path.display();
    let text = read(path).map_err(|why| format!("--config: cannot read {shown}: {why}"))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| {
            let before = text.get(..span.start).unwrap_or_default();
            1 + before.matches('\n').count()
        });
        format!("{shown} line {line}: {}", error.message())
    })?;
    let Some(sub) = command.find_subcommand(name) else {
        return Ok(command);
    };
    let mut changes = Vec::new();
    for (key, value) in table {
        let Some(arg) = option(sub, &key) else {
            let near = nearest(sub, &key);
            return Err(format!("{shown}: there is no option {key:?}{near}"));
        };
        let values = values(arg, value).map_err(|why| format!("{shown}: {key}: {why}"))?;
        changes.push((arg.get_id().clone(), values));
    }
    Ok(command.mut_subcommand(name, |mut sub| {
        for (id, values) in changes {
            sub = sub.mut_arg(id, |arg| arg.required(false).default_values(values));
        }
        sub
    }))
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
        .map_err(|error| error.to_string())?;
    if u64::try_from(text.len()).is_ok_and(|len| len > MAX_FILE) {
        return Err("it is longer than 1 MiB".to_owned());
    }
    Ok(text)
}

/// The option that a key of the file stands for.
fn option<'a>(sub: &'a Command, key: &str) -> Option<&'a Arg> {
    options(sub).find(|arg| arg.get_long() == Some(key))
}

fn options(sub: &Command) -> impl Iterator<Item = &Arg> {
    sub.get_arguments().filter(|arg| {
        let action = arg.get_action();
        let shows = matches!(
            action,
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        );
        arg.get_id() != CONFIG && !shows
    })
}

fn nearest(sub: &Command, key: &str) -> String {
    let names = options(sub).filter_map(Arg::get_long);
    let scored = names.map(|name| (strsim::jaro(key, name), name));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    match best {
        Some((score, name)) if score > 0.7 => format!("; did you mean {name:?}?"),
        _ => String::new(),
    }
}

/// A value as it would be typed.
fn values(arg: &Arg, value: toml::Value) -> Result<Vec<String>, String> {
    match value {
        toml::Value::Array(list) if matches!(arg.get_action(), ArgAction::Append) => {
            if list.is_empty() {
                return Err("the list is empty: leave the key out".to_owned());
            }
            list.into_iter().map(scalar).collect()
        }
        toml::Value::Array(_) => Err("use one value, not a list".to_owned()),
        value => Ok(vec![scalar(value)?]),
    }
}

fn scalar(value: toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(flag) => Ok(flag.to_string()),
        other => Err(format!(
            "use a string, a number or true, not a {}",
            other.type_str()
        )),
    }
}
