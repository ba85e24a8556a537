//! Where a value came from, and what is said when it is wrong.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a value came from. Its `Display` is the key in the spelling that was
/// used, as an error needs it; [`Origin::describe`] is what `check-config` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default(&'static str),
    /// The command line; the key as it was spelled there, without its dashes.
    Flag(&'static str),
    /// The environment; the variable's name.
    Environment(Arc<str>),
    /// The configuration file.
    File {
        /// The key as it was spelled there.
        key: &'static str,
        /// The file.
        path: Arc<Path>,
    },
}

impl Origin {
    /// Where from, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Default(_) => "default".to_owned(),
            Self::Flag(key) => format!("flag --{key}"),
            Self::Environment(name) => format!("environment {name}"),
            Self::File { path, .. } => format!("file {}", path.display()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(key) | Self::Flag(key) => write!(f, "--{key}"),
            Self::Environment(name) => f.write_str(name),
            Self::File { key, path } => write!(f, "{key} in {}", path.display()),
        }
    }
}

/// Why nothing was started: one line that names the key as it was spelled and
/// says what to do. Nothing in it can be a webhook's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// The exit code that goes with it.
    pub const EXIT_CODE: u8 = 2;

    /// `what` says what is wrong with the value from `origin`, and what to do.
    #[must_use]
    pub fn new(origin: &Origin, what: impl fmt::Display) -> Self {
        Self::line(format_args!("{origin}: {what}"))
    }

    /// An error that belongs to no key of its own.
    pub(crate) fn line(line: impl fmt::Display) -> Self {
        Self(redact_urls(&line.to_string()))
    }
}

/// What ends the program before it began.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The help or version that was asked for: for stdout, exit code 0.
    #[error("{0}")]
    Help(String),
    /// Man pages and completions were asked for.
    #[error("the command line asks for man pages and completions")]
    Generate(cli::Generate),
    /// Bad arguments or configuration: for stderr, exit code 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Cuts everything after a scheme: a webhook put where something else belongs
/// (a path, an argument too many) would else be quoted back.
fn redact_urls(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (kept, secret) = rest.split_at(at + "://".len());
        out.push_str(kept);
        out.push('…');
        let end = secret.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`'));
        rest = end.map_or("", |end| secret.split_at(end).1);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_cut() {
        for (line, redacted) in [
            ("nothing here", "nothing here"),
            ("a 'https://hooks.example/secret' b", "a 'https://…' b"),
            (
                "http://a https://b/\"c\" ://",
                "http://… https://…\"c\" ://…",
            ),
        ] {
            assert_eq!(redact_urls(line), redacted);
        }
    }
}
