//! The sidecar's own rotation: a log that was read is renamed, and the server,
//! which opens the log anew for every line, begins another one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mark::FileId;

/// When the sidecar itself rotates a log, and how much it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// Size in bytes from which on a log that was read is rotated.
    pub at: u64,
    /// How many rotated files are kept (1 or more): `NAME.1`, the newest, to `NAME.N`.
    pub keep: u32,
}

/// Why a log was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Who made the link is who rotates the file.
    #[error(
        "{} is a link, and what it links to is rotated by whoever made it; \
         leave --rotate-at away", path.display()
    )]
    Link {
        /// The log's path.
        path: PathBuf,
    },
    /// A file cannot be renamed.
    #[error("cannot rename {} for --rotate-at: {source}; {}", path.display(), advice(source))]
    Rename {
        /// The file's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What to do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "its volume is mounted read-only: mount it writable, or leave --rotate-at away"
        }
        io::ErrorKind::PermissionDenied => {
            "this user needs write permission in the log's directory, or leave --rotate-at away"
        }
        _ => "the log keeps growing until that works",
    }
}

/// Renames the log at `path`, which must be the file `id`, to `NAME.1`, older ones
/// by one up; the last is dropped. Does nothing where the log is no file or another
/// one by now: it was rotated already.
pub(super) fn rotate(path: &Path, id: FileId, keep: u32) -> Result<(), RotateError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RotateError::Rename { path, source }
    };
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(failed(path))?,
    };
    if metadata.is_symlink() {
        return Err(RotateError::Link {
            path: path.to_owned(),
        });
    }
    if FileId::of(&metadata) != id {
        return Ok(());
    }
    // Only up to the first free name: after a failure half-way nothing is dropped
    // that need not be.
    let last = (1..keep.max(1))
        .find(|number| fs::symlink_metadata(numbered(path, *number)).is_err())
        .unwrap_or(keep.max(1));
    for number in (1..last).rev() {
        let from = numbered(path, number);
        fs::rename(&from, numbered(path, number + 1)).map_err(failed(&from))?;
    }
    fs::rename(path, numbered(path, 1)).map_err(failed(path))
}

/// What the log is called once it was rotated so many times: `NAME.number`.
#[must_use]
pub fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(directory: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn id(path: &Path) -> FileId {
        FileId::of(&fs::metadata(path).unwrap())
    }

    #[test]
    fn the_newest_is_1_and_no_more_are_kept_than_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        for text in ["a", "b", "c", "d"] {
            fs::write(&log, text).unwrap();
            rotate(&log, id(&log), 3).unwrap();
        }
        let kept = [("log.1", "d"), ("log.2", "c"), ("log.3", "b")];
        assert_eq!(
            content(directory.path()),
            kept.map(|(n, c)| (n.into(), c.into()))
        );
    }

    #[test]
    fn a_gap_in_the_numbers_saves_what_is_beyond_it() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        for (name, text) in [("log", "new"), ("log.1", "old"), ("log.3", "oldest")] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        rotate(&log, id(&log), 3).unwrap();
        let kept = [("log.1", "new"), ("log.2", "old"), ("log.3", "oldest")];
        assert_eq!(
            content(directory.path()),
            kept.map(|(n, c)| (n.into(), c.into()))
        );
    }

    #[test]
    fn another_file_and_a_link_stay_where_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let (log, other) = (directory.path().join("log"), directory.path().join("other"));
        fs::write(&log, "log").unwrap();
        fs::write(&other, "other").unwrap();
        rotate(&log, id(&other), 3).unwrap();
        assert!(log.exists());

        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&log, &link).unwrap();
        let error = rotate(&link, id(&log), 3).unwrap_err();
        assert!(matches!(error, RotateError::Link { .. }));
        assert!(log.exists() && link.is_symlink());
    }

    #[test]
    fn what_to_do_is_said() {
        let error = |kind: io::ErrorKind| {
            let (path, source) = ("/log".into(), kind.into());
            RotateError::Rename { path, source }.to_string()
        };
        assert!(error(io::ErrorKind::ReadOnlyFilesystem).contains("mounted read-only"));
        assert!(error(io::ErrorKind::PermissionDenied).contains("write permission"));
    }
}
