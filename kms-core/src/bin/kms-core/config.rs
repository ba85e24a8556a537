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
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

/// Longest configuration file in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The option that names the file; commands that have it take all three places.
const CONFIG: &str = "config";

/// Why there are no options.
pub(crate) enum Problem {
    /// Help or the version was asked for.
    Help(clap::Error),
    /// What is wrong, in one line.
    Wrong(String),
}

impl From<clap::Error> for Problem {
    fn from(error: clap::Error) -> Self {
        if error.use_stderr() {
            Self::Wrong(format!("{}; see --help", first_line(&error)))
        } else {
            Self::Help(error)
        }
    }
}

/// What is wrong in one line, without the usage that clap adds after a blank one.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let line: Vec<_> = lines.map(str::trim).collect();
    line.join(" ").trim_start_matches("error: ").to_owned()
}

/// Parses `args`, whose first is the program's name.
pub(crate) fn matches(plain: &Command, args: &[OsString]) -> Result<ArgMatches, Problem> {
    let with_variables = with_environment(plain.clone());
    // Which command it is and where the file is, whatever else is wrong or missing.
    let first = with_variables
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(args);
    let place = first.ok().and_then(|matches| {
        let (name, matches) = matches.subcommand()?;
        let path = matches.try_get_one::<PathBuf>(CONFIG).ok().flatten();
        Some((name.to_owned(), path.cloned()))
    });
    let place = place.as_ref();
    let place = place.map(|(name, path)| (name.as_str(), path.as_deref()));
    let whole = match place {
        Some((name, Some(path))) => {
            with_file(with_variables.clone(), name, path).map_err(Problem::Wrong)?
        }
        _ => with_variables.clone(),
    };
    whole.try_get_matches_from(args).map_err(|error| {
        if is_command_missing(error.kind()) {
            return Problem::Wrong(no_command(plain, args));
        }
        match origin(&error, plain, &with_variables, place, args) {
            Some((typed, origin)) => {
                let line = first_line(&error).replace(&format!("'{typed}'"), &origin);
                Problem::Wrong(format!("{line}; see --help"))
            }
            None => error.into(),
        }
    })
}

fn is_command_missing(kind: ErrorKind) -> bool {
    use ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingSubcommand};
    matches!(
        kind,
        DisplayHelpOnMissingArgumentOrSubcommand | MissingSubcommand
    )
}

/// Which commands there are, where none is given.
fn no_command(command: &Command, args: &[OsString]) -> String {
    let mut above = command;
    for arg in args.iter().skip(1) {
        above = above.find_subcommand(arg).unwrap_or(above);
    }
    let shown = above.get_subcommands().filter(|sub| !sub.is_hide_set());
    let names: Vec<_> = shown.map(Command::get_name).collect();
    let list = match names.as_slice() {
        [most @ .., one, last] => [most, &[&*format!("{one} or {last}")]].concat().join(", "),
        _ => names.concat(),
    };
    format!("no command given: {list}; see --help")
}

/// The option with a wrong value as clap names it, and where the value is from if
/// it was not typed. clap does not tell: it is whoever brings the same error when
/// only the command line, or only that and the environment, is looked at.
fn origin(
    error: &clap::Error,
    plain: &Command,
    with_variables: &Command,
    place: Option<(&str, Option<&Path>)>,
    args: &[OsString],
) -> Option<(String, String)> {
    let is_value = matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation
    );
    let typed = error.get(ContextKind::InvalidArg).filter(|_| is_value)?;
    let is_there = |command: &Command| {
        let same = |other: clap::Error| {
            let parts = [ContextKind::InvalidArg, ContextKind::InvalidValue];
            parts
                .iter()
                .all(|part| other.get(*part) == error.get(*part))
        };
        command.clone().try_get_matches_from(args).is_err_and(same)
    };
    if is_there(&without_environment(plain.clone())) {
        return None;
    }
    let typed = typed.to_string();
    let key = typed.split(' ').next()?.strip_prefix("--")?;
    let (name, file) = place?;
    let origin = if is_there(with_variables) {
        let arg = option(with_variables.find_subcommand(name)?, key)?;
        arg.get_env()?.to_string_lossy().into_owned()
    } else {
        format!("{key} in {}", file?.display())
    };
    Some((typed, origin))
}

/// Takes away the variables that options have by themselves.
fn without_environment(mut command: Command) -> Command {
    for sub in command.get_subcommands_mut() {
        let taken = std::mem::take(sub);
        *sub = taken.mut_args(|arg| arg.env(Resettable::Reset));
    }
    command
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// What is wrong with a command line; the variables are the tests' own.
    fn wrong(args: &[&str]) -> String {
        let args: Vec<_> = ["kms-core"]
            .iter()
            .chain(args)
            .map(OsString::from)
            .collect();
        match matches(&crate::Cli::command(), &args) {
            Err(Problem::Wrong(why)) => why,
            Err(Problem::Help(text)) => panic!("{text}"),
            Ok(matches) => panic!("{matches:?}"),
        }
    }

    #[test]
    fn without_a_command_those_that_there_are_are_named() {
        assert_eq!(
            wrong(&[]),
            "no command given: serve, relay, request, doctor or limits; see --help"
        );
        for args in [&["limits"][..], &["limits", "--admin", "127.0.0.1:1"]] {
            assert_eq!(
                wrong(args),
                "no command given: list, expire or flush; see --help"
            );
        }
    }

    #[test]
    fn what_was_typed_is_named_as_it_was() {
        assert_eq!(
            wrong(&["serve", "--listen", "foo"]),
            "invalid value 'foo' for '--listen <ADDRESS:PORT>': \
             write ADDRESS:PORT, like [::]:1688 or 127.0.0.1:9103; see --help"
        );
    }
}
