//! The program's own log, on standard error.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;

use crate::config::LogFormat;

/// Starts it. Once in a program: there is one log.
pub fn start(format: LogFormat, level: LevelFilter) {
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_target(false)
        .with_max_level(level)
        // A log that nobody reads is no reason to end: the alternative is a panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match format {
        LogFormat::Human => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
