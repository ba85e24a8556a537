//! The command line around [`notifier::diag`]: parse, set up the program's own
//! log, run, turn the result into an exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use notifier::config::{ConfigError, Stop, diag as config};
use notifier::diag::{self, DiagError};
use notifier::own_log;

fn main() -> ExitCode {
    let config = match config::load(std::env::args_os(), &|name: &str| std::env::var_os(name)) {
        Ok(config) => config,
        Err(Stop::Help(text)) => {
            // Whoever asked may have gone (`kms-diag --help | head -1`).
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(Stop::Generate(what)) => {
            return match what.write(config::command()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(ConfigError::EXIT_CODE, &error),
            };
        }
        Err(Stop::Config(error)) => return fail(ConfigError::EXIT_CODE, &error),
    };
    own_log::start(config.log_format, config.log_level);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime.map(|runtime| runtime.block_on(diag::run(config))) {
        Ok(Ok(code)) => code,
        Ok(Err(error @ DiagError::Config(_))) => fail(ConfigError::EXIT_CODE, &error),
        Ok(Err(error)) => fail(1, &error),
        Err(error) => fail(1, &error),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // The code says it too, where nobody reads the line.
    let _ = writeln!(io::stderr(), "kms-diag: {error}");
    ExitCode::from(code)
}
