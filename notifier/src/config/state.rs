//! Where the state is kept.

use std::fmt;
use std::path::PathBuf;

use super::error::{ConfigError, Origin};
use super::layers::Layers;

/// The database that outlives the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its file.
    pub path: PathBuf,
    /// Whether what is there is removed first.
    pub reset: bool,
    pub(super) origin: Origin,
}

impl State {
    /// What to tell the user when the state cannot be had.
    #[must_use]
    pub fn error(&self, what: impl fmt::Display) -> ConfigError {
        ConfigError::new(&self.origin, what)
    }
}

/// An empty path keeps no state, whatever a lower place says.
pub(super) fn state(layers: &mut Layers, reset: bool) -> Result<Option<State>, ConfigError> {
    const KEY: &str = "state";
    let (path, origin) = match layers.pick(KEY, |raw| &raw.serving.state) {
        Some((text, origin, _)) => (PathBuf::from(&*text), origin),
        None => layers
            .default_state("kms-notifier.redb")
            .unwrap_or((PathBuf::new(), Origin::Default(KEY))),
    };
    let shown = path.display().to_string();
    layers.effective.add(KEY, &*shown, origin.clone());
    if shown.chars().any(char::is_control) || shown.ends_with('/') {
        let what = format!("{shown:?} is not a file; give the path of one");
        return Err(ConfigError::new(&origin, what));
    }
    if reset && shown.is_empty() {
        return Err(ConfigError::new(
            &Origin::Flag("state-reset"),
            "there is no state to remove; give --state PATH, too",
        ));
    }
    Ok((!shown.is_empty()).then_some(State {
        path,
        reset,
        origin,
    }))
}
