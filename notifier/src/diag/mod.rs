//! `kms-diag`: client scripts post what they saw, one JSON object each, and it
//! becomes one line on standard output for a log collector (docs/diag.md).
//!
//! Whoever reaches the port may post, so the sender is hostile until shown
//! otherwise: [`line`](mod@line) bounds and cleans what is printed, [`client`]
//! says whose it is, [`allowance`] how much of it is taken. Those three are pure;
//! [`collector`] answers on HTTP, [`output`] writes, [`metrics`] counts.

pub mod allowance;
pub mod client;
pub mod collector;
pub mod line;
pub mod metrics;
pub mod output;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::config::ConfigError;
use crate::config::diag::Config;
use crate::sink::http::{STOP_GRACE, bind};

use collector::Collector;

/// Why the collector did not start.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// Something that was configured cannot be had.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The system refused something that has no key.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// Collects until SIGTERM or SIGINT, or until nobody reads standard output any
/// more; returns the code to end with.
///
/// # Errors
/// Something cannot be had; then nothing was started.
pub async fn run(config: Config) -> Result<ExitCode, DiagError> {
    let system = |what| move |error| DiagError::System { what, error };
    let listening = |error: io::Error| config.listen.error(&error);
    let listener = bind(config.listen.address).map_err(listening)?;
    let listener = TcpListener::from_std(listener).map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(system("signal handlers"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("signal handlers"))?;
    let (lines, mut written) =
        output::start(io::stdout()).map_err(system("a thread for standard output"))?;
    let lines = Arc::new(lines);
    let collector = Collector::new(config.trusted_proxies, config.rate, Arc::clone(&lines));
    tracing::info!(%address, "collecting events; serving metrics");

    let mut broken = None;
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("stopping"),
            _ = interrupt.recv() => tracing::info!("stopping"),
            ended = &mut written => broken = Some(ended),
        }
    };
    collector::serve(listener, collector, stopped).await;
    let ended = match broken {
        Some(ended) => ended,
        None => {
            // What was answered is printed, unless nobody takes it.
            lines.close();
            match timeout(STOP_GRACE, written).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("standard output takes nothing; its last lines are lost");
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    };
    Ok(match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // Whoever read the lines has enough of them: a quiet end.
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            tracing::error!("standard output: {error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            tracing::error!("the thread for standard output is gone");
            ExitCode::FAILURE
        }
    })
}
