//! Shared helpers of the end-to-end tests: the real binary, real files, and a
//! Slack that does what a test tells it to.
//!
//! Everything here waits for an event with [`DEADLINE`] as the bound, and panics
//! with what it saw when the deadline passes: these are tests' tools.

mod browser;
mod exposition;
mod inert;
mod log_writer;
mod recorded;
mod redis;
pub mod score;
mod sidecar;
mod slack;
mod visit;
mod watch;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

pub use browser::Browser;
pub use exposition::{Exposition, Sample};
pub use inert::{assert_inert_message, assert_plain_lines, json_lines};
pub use log_writer::LogWriter;
pub use recorded::{Recording, check_at_once, recordings, replay};
pub use redis::RedisServer;
pub use sidecar::Sidecar;
pub use slack::{Behaviour, FakeSlack, Post};
pub use visit::{Visit, server_started, server_stopped};
pub use watch::Watch;

/// How long a helper waits for something that should happen at once. Generous,
/// because only a failing test ever waits so long.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The `kms-notifier` binary, built from the sources as they are now: once per
/// test process, with cargo's own cache and the tests' profile.
///
/// # Panics
/// When it does not compile.
#[must_use]
pub fn notifier_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| binary("kms-notifier"))
}

/// The `kms-core` binary, in the same way.
///
/// # Panics
/// When it does not compile.
#[must_use]
pub fn core_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| binary("kms-core"))
}

/// A command that runs `kms-diag` with nothing inherited, on a free port unless
/// the test says otherwise.
///
/// # Panics
/// When it does not compile.
#[must_use]
pub fn diag() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(BINARY.get_or_init(|| binary("kms-diag")));
    command
        .env_clear()
        .env("KMS_DIAG_LISTEN", "[::]:0")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}

/// One of the programs, built from the sources as they are now.
///
/// # Panics
/// When it does not compile.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let build = escargot::CargoBuild::new()
        .manifest_path(workspace)
        // All packages, so that features unify as in `cargo test --workspace`
        // and the dependencies built for it are used again.
        .arg("--workspace")
        .arg("--locked")
        .bin(name)
        .current_release()
        .run();
    match build {
        Ok(run) => run.path().to_path_buf(),
        Err(e) => panic!("{name} does not build: {e}"),
    }
}

/// A command that runs `kms-notifier` with nothing inherited: a webhook in the
/// environment of whoever runs the tests must not be posted to. Standard input
/// is empty and metrics get a free port, unless the test says otherwise.
#[must_use]
pub fn notifier() -> Command {
    let mut command = Command::new(notifier_binary());
    command
        .env_clear()
        .env("METRICS_PORT", "0")
        // Recordings are old news, and are to be posted all the same.
        .env("KMS_NOTIFIER_POST_MAX_AGE", "876000h")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}

/// A command that runs `kms-core` with nothing inherited.
#[must_use]
pub fn core() -> Command {
    let mut command = Command::new(core_binary());
    command
        .env_clear()
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}
