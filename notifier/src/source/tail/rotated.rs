//! The files that a log was rotated to: which names they have, and how they are
//! found beside it.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use glob::Pattern;

use super::mark::FileId;
use crate::source::wake::links;

/// How many rotated files are looked at; beyond that the newest count.
const MAX_CANDIDATES: usize = 1024;

/// What the log's own file name is called in a [`RotatedGlob`].
const NAME: &str = "{}";

/// Which names rotated files have beside their log: a glob in which `{}` stands
/// for the log's file name. It may begin with a directory, relative to the log's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotatedGlob {
    directory: PathBuf,
    name: String,
}

/// Why a text is no [`RotatedGlob`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotatedGlobError {
    /// There is no pattern for a file's name.
    #[error("it ends in a directory; add a pattern for the files, such as {{}}.*")]
    NoName,
    /// A directory is searched, not many.
    #[error("its directory has a wildcard; give one directory")]
    WildDirectory,
    /// The pattern is none.
    #[error("it is not a pattern ({0}); write {{}}.* or {{}}-*.gz")]
    NotAPattern(&'static str),
}

impl Default for RotatedGlob {
    /// `{}[.-]*`: `log.1`, `log.2.gz`, `log-20261120`.
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            name: format!("{NAME}[.-]*"),
        }
    }
}

impl FromStr for RotatedGlob {
    type Err = RotatedGlobError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (directory, name) = text
            .rsplit_once('/')
            .map_or(("", text), |(directory, name)| {
                (if directory.is_empty() { "/" } else { directory }, name)
            });
        if name.is_empty() {
            return Err(RotatedGlobError::NoName);
        }
        if directory.contains(['*', '?', '[', '{']) {
            return Err(RotatedGlobError::WildDirectory);
        }
        let glob = Self {
            directory: directory.into(),
            name: name.to_owned(),
        };
        match Pattern::new(&glob.name.replace(NAME, "log")) {
            Ok(_) => Ok(glob),
            Err(error) => Err(RotatedGlobError::NotAPattern(error.msg)),
        }
    }
}

impl std::fmt::Display for RotatedGlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.directory.join(&self.name).to_string_lossy())
    }
}

impl RotatedGlob {
    /// Whether a rotation of the log at `log` may be called `path`.
    #[must_use]
    pub fn matches(&self, log: &Path, path: &Path) -> bool {
        let (Some(name), Some(found)) = (log.file_name(), path.file_name()) else {
            return false;
        };
        self.directory_of(log) == directory(path) && self.pattern(name).matches(&text(found))
    }

    fn directory_of(&self, log: &Path) -> PathBuf {
        let directory = directory(log);
        if self.directory.as_os_str().is_empty() {
            directory
        } else {
            directory.join(&self.directory)
        }
    }

    fn pattern(&self, name: &OsStr) -> Pattern {
        let escaped = Pattern::escape(&text(name));
        Pattern::new(&self.name.replace(NAME, &escaped)).expect("checked when it was read")
    }
}

/// The directory that a file is in.
fn directory(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(Path::new(""));
    if parent.as_os_str().is_empty() {
        ".".into()
    } else {
        parent.to_owned()
    }
}

/// A name for matching: what is not UTF-8 matches `?` and `*`.
fn text(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

/// A file that may hold what was rotated away.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    pub(super) modified: Option<SystemTime>,
}

impl Candidate {
    /// Oldest first. Files that were changed at the same time are ordered as
    /// rotation names them: higher numbers and smaller dates are older.
    fn age(&self) -> (Option<SystemTime>, Reverse<Option<u64>>, &Path) {
        let name = text(self.path.file_name().unwrap_or_default());
        let stem = name.strip_suffix(".gz").unwrap_or(&name);
        // Not a date: those count upwards.
        let number = stem.rsplit('.').next().filter(|digits| digits.len() < 6);
        let number = number.and_then(|digits| digits.parse().ok());
        (self.modified, Reverse(number), &self.path)
    }
}

/// The rotated files of a log beside it, and beside what it links to; oldest first.
///
/// `but` is not one of them. What is looked at is bounded; the number left out
/// comes second.
///
/// # Errors
/// A directory cannot be read; one that is not there has no files.
pub(super) fn candidates(
    log: &Path,
    glob: &RotatedGlob,
    but: Option<FileId>,
) -> Result<(Vec<Candidate>, usize), (PathBuf, io::Error)> {
    let mut found: Vec<Candidate> = Vec::new();
    let mut known: HashSet<FileId> = but.into_iter().collect();
    let mut left_out = 0;
    for log in links(log) {
        let Some(name) = log.file_name() else {
            continue;
        };
        let (directory, pattern) = (glob.directory_of(&log), glob.pattern(name));
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err((directory, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| (directory.clone(), error))?;
            let name = entry.file_name();
            if !pattern.matches(&text(&name)) {
                continue;
            }
            // One that cannot be looked at was just moved or deleted.
            let Ok(metadata) = fs::metadata(entry.path()) else {
                continue;
            };
            let id = FileId::of(&metadata);
            if metadata.is_file() && known.insert(id) {
                found.push(Candidate {
                    path: entry.path(),
                    id,
                    modified: metadata.modified().ok(),
                });
                if found.len() > 2 * MAX_CANDIDATES {
                    left_out += keep_newest(&mut found);
                }
            }
        }
    }
    // While gzip works, the whole file is the one without the suffix.
    let being_packed: HashSet<PathBuf> = found.iter().map(|file| suffixed(&file.path)).collect();
    found.retain(|file| !being_packed.contains(&file.path));
    left_out += keep_newest(&mut found);
    Ok((found, left_out))
}

/// Sorts the files, oldest first, and drops those that are too many.
fn keep_newest(files: &mut Vec<Candidate>) -> usize {
    files.sort_by(|a, b| a.age().cmp(&b.age()));
    files
        .drain(..files.len().saturating_sub(MAX_CANDIDATES))
        .len()
}

fn suffixed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    #[test]
    fn which_names_match() {
        let log = Path::new("/var/log/kms[1].log");
        for (glob, right, wrong) in [
            ("{}[.-]*", "/var/log/kms[1].log.1", "/var/log/kms1.log.1"),
            (
                "{}[.-]*",
                "/var/log/kms[1].log-20261120.gz",
                "/var/log/kms[1].log",
            ),
            ("kms-*.log", "/var/log/kms-2.log", "/var/log/old/kms-2.log"),
            (
                "old/{}.*",
                "/var/log/old/kms[1].log.1",
                "/var/log/kms[1].log.1",
            ),
            ("/srv/{}.*", "/srv/kms[1].log.1", "/var/log/kms[1].log.1"),
        ] {
            let parsed: RotatedGlob = glob.parse().unwrap();
            assert!(parsed.matches(log, Path::new(right)), "{glob} {right}");
            assert!(!parsed.matches(log, Path::new(wrong)), "{glob} {wrong}");
            assert_eq!(parsed.to_string(), glob);
        }
        assert_eq!("{}[.-]*".parse(), Ok(RotatedGlob::default()));
    }

    #[test]
    fn what_is_no_glob_is_told() {
        for (text, error) in [
            ("", RotatedGlobError::NoName),
            ("old/", RotatedGlobError::NoName),
            ("*/{}.1", RotatedGlobError::WildDirectory),
        ] {
            assert_eq!(text.parse::<RotatedGlob>(), Err(error), "{text}");
        }
        assert!("{}[".parse::<RotatedGlob>().is_err());
    }

    #[test]
    fn files_are_ordered_by_change_then_as_rotation_names_them() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        for (name, seconds) in [
            ("log", 0),
            ("log.1", 50),
            ("log.2.gz", 50),
            ("log.10", 50),
            ("log-20261120", 20),
            ("log-20261119", 20),
            ("log.3", 90),
            ("log.3.gz", 90),
            ("logs", 0),
        ] {
            let file = File::create(directory.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
                .unwrap();
        }
        fs::create_dir(directory.path().join("log.d")).unwrap();
        fs::hard_link(
            directory.path().join("log.1"),
            directory.path().join("log.1.bak"),
        )
        .unwrap();

        let current = FileId::of(&fs::metadata(&log).unwrap());
        let (found, left_out) = candidates(&log, &RotatedGlob::default(), Some(current)).unwrap();
        let names: Vec<String> = found
            .iter()
            .map(|file| text(file.path.file_name().unwrap()).replace(".bak", ""))
            .collect();
        let expected = [
            "log-20261119",
            "log-20261120",
            "log.10",
            "log.2.gz",
            "log.1",
            "log.3",
        ];
        assert_eq!((names, left_out), (expected.map(String::from).to_vec(), 0));
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_files() {
        let glob = "old/{}.*".parse().unwrap();
        let found = candidates(Path::new("/nowhere/at/all/log"), &glob, None);
        assert!(found.is_ok_and(|(found, left_out)| found.is_empty() && left_out == 0));
    }
}
