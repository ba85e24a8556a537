//! A real `redis-server` on a free port.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A server that keeps nothing on the disk and asks for [`Self::PASSWORD`]; ended
/// when dropped.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl RedisServer {
    /// What it asks for; must never be printed.
    pub const PASSWORD: &str = "an-unspeakable-password";

    /// Starts one. None, and a word about it, where it is not installed.
    ///
    /// # Panics
    /// When it does not start, or is not installed where `CI=true` says that all
    /// is to be tested.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    pub fn start() -> Option<Self> {
        // A port that was free a moment ago may be somebody's by now.
        for _ in 0..10 {
            let directory = tempfile::tempdir().expect("a directory for the server");
            let port = free_port();
            let config = format!(
                "bind 127.0.0.1\nport {port}\nsave \"\"\nrequirepass {}\n",
                Self::PASSWORD
            );
            fs::write(directory.path().join("redis.conf"), config).expect("it takes files");
            fs::write(directory.path().join("password"), Self::PASSWORD).expect("it takes files");
            match spawn(&directory) {
                Ok(Some(child)) => {
                    return Some(Self {
                        child,
                        port,
                        directory,
                    });
                }
                Ok(None) => {
                    assert!(
                        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
                        "redis-server is missing, and CI tests everything"
                    );
                    eprintln!("skipped: install redis-server to test the shared store");
                    return None;
                }
                Err(said) => eprintln!("redis-server did not start: {said:#?}"),
            }
        }
        panic!("no free port for redis-server");
    }

    /// Where it is, without the password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/2", self.port)
    }

    /// A file with the password.
    #[must_use]
    pub fn password_file(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    /// Kills it, and all that it knew is gone.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn stop(&mut self) {
        self.child.kill().expect("one's own child can be killed");
        self.child.wait().expect("a killed child ends");
    }

    /// Starts it again on its port, empty.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self) {
        let spawned = spawn(&self.directory).expect("its port is still free");
        self.child = spawned.expect("it was installed a moment ago");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Fails only for a child that was stopped already.
        if self.child.kill().is_ok() {
            self.child.wait().expect("a killed child ends");
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener.local_addr();
    address.expect("a bound listener has an address").port()
}

/// The server once it takes connections; none if there is no such program, and
/// what it said if it ended.
fn spawn(directory: &TempDir) -> Result<Option<Child>, Vec<String>> {
    let spawned = Command::new("redis-server")
        .arg("redis.conf")
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => panic!("redis-server: {error}"),
    };
    let said = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let mut before = Vec::new();
    for line in said.map_while(Result::ok) {
        if line.contains("Ready to accept connections") {
            return Ok(Some(child));
        }
        before.push(line);
    }
    child.wait().expect("a child that closed its output ends");
    Err(before)
}
