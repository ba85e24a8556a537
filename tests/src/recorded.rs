//! The recorded logs (`fixtures/README.md`) and what is read from them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::Value;

use crate::{json_lines, notifier};

/// A recorded log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recording {
    /// The file's name without its ending.
    pub name: String,
    /// The log; its truth is beside it.
    pub path: PathBuf,
}

impl Recording {
    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/recorded"));
        Self {
            name: name.to_owned(),
            path: directory.join(format!("{name}.log")),
        }
    }

    /// Its bytes.
    ///
    /// # Panics
    /// When it cannot be read, as below.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("a recording can be read")
    }

    /// What its clients did, a line of JSON each.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn truth(&self) -> String {
        fs::read_to_string(self.path.with_extension("truth.jsonl"))
            .expect("a recording has its truth")
    }

    /// Whether its clients attack whoever reads the log.
    #[must_use]
    pub fn is_hostile(&self) -> bool {
        self.name.contains("-hostile")
    }
}

/// All recordings, by name.
///
/// # Panics
/// When their directory cannot be read.
#[must_use]
pub fn recordings() -> Vec<Recording> {
    let directory = Recording::named("").path;
    let directory = directory.parent().expect("a file is in a directory");
    let files = fs::read_dir(directory).expect("the recordings are there");
    let paths = files.map(|file| file.expect("a directory can be read").path());
    let logs = paths.filter(|path| path.extension() == Some(OsStr::new("log")));
    let stems = logs.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    let mut recordings: Vec<_> = stems.map(|name| Recording::named(&name)).collect();
    recordings.sort();
    recordings
}

/// The events that `replay --format json` reads from files, with these further
/// arguments before them.
///
/// # Panics
/// When it does not end well, or prints anything but events.
#[must_use]
pub fn replay(arguments: &[&str], files: &[&Path]) -> Vec<Value> {
    let mut command = notifier();
    command
        .args(["replay", "--format", "json"])
        .args(arguments)
        .args(files);
    let output = command.output().expect("the notifier starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{files:?}: {errors}");
    assert_eq!(errors, "", "{files:?}");
    json_lines(&output.stdout)
}

/// Checks all of these at the same time, each on a thread that has its name: a
/// sidecar mostly waits for its next message to be due.
///
/// # Panics
/// When one of the checks does.
pub fn check_at_once(recordings: Vec<Recording>, check: impl Fn(&Recording) + Sync) {
    thread::scope(|scope| {
        for recording in recordings {
            let check = &check;
            thread::Builder::new()
                .name(recording.name.clone())
                .spawn_scoped(scope, move || check(&recording))
                .expect("a thread starts");
        }
    });
}
