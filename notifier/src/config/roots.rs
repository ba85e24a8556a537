//! Certificate authorities beside those that are compiled in.

use std::path::Path;

use super::error::{ConfigError, Origin};
use super::layers::{Layers, read_bounded};
use crate::sink::slack::Roots;

/// Longest file of authorities in bytes; all public ones together have 200 KiB.
const MAX_FILE: u64 = 1 << 20;

/// An empty path adds none, whatever a lower place says.
pub(super) fn roots(layers: &mut Layers) -> Result<Roots, ConfigError> {
    const KEY: &str = "ca-file";
    let (path, origin) = match layers.pick(KEY, |raw| &raw.serving.ca_file) {
        Some((path, origin, _)) => (path.to_string(), origin),
        None => (String::new(), Origin::Default(KEY)),
    };
    layers.effective.add(KEY, &*path, origin.clone());
    if path.is_empty() {
        return Ok(Roots::default());
    }
    let wrong = |what: String| ConfigError::new(&origin, what);
    let pem = read_bounded(Path::new(&path), MAX_FILE)
        .map_err(|error| wrong(format!("cannot read {path}: {error}; give a readable file")))?;
    Roots::with(pem.as_bytes()).map_err(|error| wrong(format!("{path} {error}")))
}
