//! A log that grows, and is rotated the ways log files are.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Plays the server: appends to a file and keeps it open, as servers do.
///
/// Every method panics when the file system refuses: a test that cannot write
/// its log has nothing to say.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
}

impl LogWriter {
    /// Opens `path` for appending, creating it if it is not there.
    #[must_use]
    pub fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let file = append(&path);
        Self { path, file }
    }

    /// The log's name, which after a rename or deletion another file may have.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes in one write, as they are: half a line, or many.
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.file
            .write_all(bytes.as_ref())
            .expect("the log takes bytes");
    }

    /// Appends a line and its LF in one write.
    pub fn line(&mut self, line: impl AsRef<[u8]>) {
        let line = line.as_ref();
        let mut whole = Vec::with_capacity(line.len() + 1);
        whole.extend_from_slice(line);
        whole.push(b'\n');
        self.bytes(whole);
    }

    /// Renames the log. The writer goes on with the file it has open, until
    /// [`Self::reopen`].
    pub fn rename(&self, to: impl AsRef<Path>) {
        fs::rename(&self.path, to).expect("the log can be renamed");
    }

    /// Deletes the log. The writer goes on with the file it has open, until
    /// [`Self::reopen`].
    pub fn delete(&self) {
        fs::remove_file(&self.path).expect("the log can be deleted");
    }

    /// Opens the log's name again, creating the file: the second half of a
    /// rotation by rename or deletion.
    pub fn reopen(&mut self) {
        self.file = append(&self.path);
    }

    /// Copies the log away and empties it in place.
    pub fn copy_truncate(&self, to: impl AsRef<Path>) {
        fs::copy(&self.path, to).expect("the log can be copied");
        self.truncate();
    }

    /// Empties the log in place.
    pub fn truncate(&self) {
        self.file.set_len(0).expect("the log can be emptied");
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("the log can be opened")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::LogWriter;

    #[test]
    fn rotations_leave_what_they_should() {
        let dir = tempfile::tempdir().unwrap();
        let (log, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let mut writer = LogWriter::open(&log);

        writer.line("one");
        writer.rename(&old);
        writer.line("two");
        writer.reopen();
        writer.bytes("thr");
        writer.line("ee");
        assert_eq!(
            (read(&old), read(&log)),
            ("one\ntwo\n".into(), "three\n".into())
        );

        writer.copy_truncate(&old);
        writer.line("four");
        assert_eq!(
            (read(&old), read(&log)),
            ("three\n".into(), "four\n".into())
        );

        writer.delete();
        writer.line("lost");
        writer.reopen();
        writer.line("five");
        assert_eq!(read(writer.path()), "five\n");
    }
}
