//! A small disk of one's own: a tmpfs in a mount namespace that nobody else sees.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A tmpfs that a shell in a mount namespace holds; both are gone when dropped.
#[derive(Debug)]
pub struct Volume {
    shell: Child,
    /// Whether the namespace belongs to one of users, too.
    of_users: bool,
}

impl Volume {
    /// Where it is mounted for whoever is in its namespace.
    const MOUNTED: &str = "/mnt";

    /// Makes one of that many KiB. None, and a word about it, where the system
    /// lets nobody mount anything.
    ///
    /// # Panics
    /// When it may not where `CI=true` says that all is to be tested.
    #[must_use]
    pub fn new(kib: u32) -> Option<Self> {
        let mut said = String::new();
        for of_users in [false, true] {
            match Self::mount(kib, of_users) {
                Ok(volume) => return Some(volume),
                Err(error) => said += &format!("{error}\n"),
            }
        }
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "no tmpfs can be mounted, and CI tests everything: {said}"
        );
        // Past the harness, which shows what a test prints only if it fails. Where
        // this cannot be written nothing can be said.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no tmpfs can be mounted here: {}",
            said.trim()
        );
        None
    }

    fn mount(kib: u32, of_users: bool) -> Result<Self, String> {
        let mut command = Command::new("unshare");
        if of_users {
            command.args(["--user", "--map-root-user"]);
        }
        let script = format!(
            "mount -t tmpfs -o size={kib}k tmpfs {} && echo mounted && read -r _",
            Self::MOUNTED
        );
        let mut shell = command
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        let stdout = shell.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("a pipe can be read");
        if line != "mounted\n" {
            let mut said = String::new();
            let mut stderr = shell.stderr.take().expect("it is piped");
            stderr.read_to_string(&mut said).expect("it speaks text");
            shell.wait().expect("one's own child can be waited for");
            return Err(said.trim().to_owned());
        }
        Ok(Self { shell, of_users })
    }

    /// The name of a file for those in the namespace.
    #[must_use]
    pub fn inside(&self, name: &str) -> PathBuf {
        Path::new(Self::MOUNTED).join(name)
    }

    /// The name of the same file for this process.
    #[must_use]
    pub fn outside(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root{}", self.shell.id(), Self::MOUNTED);
        Path::new(&root).join(name)
    }

    /// The same command, to be run in the namespace. It is to have an environment
    /// of its own, as [`crate::notifier`] has.
    #[must_use]
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        if self.of_users {
            inside.args(["--user", "--preserve-credentials"]);
        }
        inside
            .args(["--mount", "--target", &self.shell.id().to_string(), "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                inside.env(name, value);
            }
        }
        if let Some(path) = std::env::var_os("PATH") {
            inside.env("PATH", path);
        }
        inside
    }

    /// Mounts it anew, read-only or not. Nobody may have a file open for writing.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn remount(&self, read_only: bool) {
        let options = if read_only {
            "remount,ro"
        } else {
            "remount,rw"
        };
        let mut mount = Command::new("mount");
        mount.args(["-o", options, Self::MOUNTED]);
        let output = self.enter(&mount).output().expect("nsenter is there");
        assert!(output.status.success(), "{output:?}");
    }

    /// Writes a file until there is no room for one more byte.
    ///
    /// # Panics
    /// When something else is wrong.
    pub fn fill(&self, name: &str) {
        let mut file = File::create(self.outside(name)).expect("there is room for a name");
        for size in [4096, 1] {
            let error = loop {
                if let Err(error) = file.write_all(&vec![0; size]) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }

    /// Removes a file.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.outside(name)).expect("it is there");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Fails only for one that has ended.
        if self.shell.kill().is_ok() {
            self.shell.wait().expect("a killed child ends");
        }
    }
}
