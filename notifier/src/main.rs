//! The command line around the library: parse, set up the program's own log, run
//! one command, turn the result into an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use notifier::config::{self, Command, Config, ConfigError, Stop};
use notifier::own_log::{self, OwnLog};
use notifier::replay::ReplayError;
use notifier::{explain, replay, run};

/// Wrong arguments or configuration; nothing was started.
const USAGE: u8 = ConfigError::EXIT_CODE;

fn main() -> ExitCode {
    let loaded = match load() {
        Ok(loaded) => loaded,
        Err(Stop::Help(text)) => return print(|out| write!(out, "{text}")),
        Err(Stop::Generate(what)) => {
            return match what.write(config::command()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(USAGE, &error),
            };
        }
        Err(Stop::Config(error)) => return fail(USAGE, &error),
    };
    let reading = match &loaded.command {
        Command::Run(config) | Command::CheckConfig(config) | Command::TestNotify(config) => {
            &config.reading
        }
        Command::Replay(replay) => &replay.reading,
        Command::Explain(explain) => &explain.reading,
        Command::DeadLetters(what) => &what.reading,
    };
    let (format, level) = (reading.log_format, reading.log_level);
    // What runs for months must not stop where nobody reads its log; what ends by
    // itself must have said all it had to say.
    let log = match loaded.command {
        Command::Run(_) => match own_log::start_apart(format, level) {
            Ok(log) => Some(log),
            Err(error) => return fail(1, &error),
        },
        _ => {
            own_log::start(format, level);
            None
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match loaded.command {
        Command::Run(config) => follow(*config, log),
        Command::TestNotify(config) => test_notify(&config),
        Command::CheckConfig(_) => print(|out| write!(out, "{}", loaded.effective)),
        Command::Replay(what) => finish(replay::replay(&what, &mut stdout())),
        Command::DeadLetters(what) => match run::dead_letters(&what) {
            Ok(lines) => print(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}"))),
            Err(error @ run::RunError::Config(_)) => fail(USAGE, &error),
            Err(error) => fail(1, &error),
        },
        Command::Explain(what) => match explain::explain(&what, &mut stdout()) {
            Err(explain::ExplainError::Replay(error)) => finish(Err(error)),
            Err(error) => fail(USAGE, &error),
            Ok(()) => ExitCode::SUCCESS,
        },
    }
}

fn load() -> Result<config::Loaded, Stop> {
    config::load(std::env::args_os(), &|name: &str| std::env::var_os(name))
}

fn follow(config: Config, log: Option<OwnLog>) -> ExitCode {
    let reload = || match load() {
        Ok(loaded) => match loaded.command {
            Command::Run(config) => Ok(*config),
            _ => Err("the command line changed under the program".to_owned()),
        },
        Err(stop @ (Stop::Config(_) | Stop::Generate(_))) => Err(stop.to_string()),
        Err(Stop::Help(_)) => Err("the command line asks for help".to_owned()),
    };
    let result = block_on(run::run(config, reload));
    // First what it said, then why it ends.
    if let Some(log) = log {
        log.finish();
    }
    match result {
        Ok(Ok(code)) => code,
        Ok(Err(error @ run::RunError::Config(_))) => fail(USAGE, &error),
        Ok(Err(error)) => fail(1, &error),
        Err(error) => fail(1, &error),
    }
}

fn test_notify(config: &Config) -> ExitCode {
    match block_on(run::test_notify(config)) {
        Ok(Ok(())) => print(|out| writeln!(out, "the message was accepted")),
        Ok(Err(error @ run::TestError::Config(_))) => fail(USAGE, &error),
        Ok(Err(error)) => fail(1, &error),
        Err(error) => fail(1, &error),
    }
}

fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future))
}

fn finish(result: Result<(), ReplayError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has enough of it (`replay … | head`): a quiet end.
        Err(ReplayError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error @ ReplayError::Input { .. }) => fail(USAGE, &error),
        Err(error) => fail(1, &error),
    }
}

fn stdout() -> impl Write {
    io::BufWriter::with_capacity(64 * 1024, io::stdout().lock())
}

fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> ExitCode {
    let mut out = stdout();
    finish(
        write(&mut out)
            .and_then(|()| out.flush())
            .map_err(ReplayError::Output),
    )
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // The code says it too, where nobody reads the line.
    let _ = writeln!(io::stderr(), "kms-notifier: {error}");
    ExitCode::from(code)
}
