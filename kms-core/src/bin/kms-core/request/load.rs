//! Many requests at once, summed up.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kms_core::client::connect;
use kms_core::client::load::{Failure as Kind, Latency, Load, Report, Settings};
use kms_core::message::BaseRequest;
use serde_json::{Map, Value, json};

use super::{code, no_connection};
use crate::output::{millis, print, print_json};
use crate::value;
use crate::{Failure, front};

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);

/// More connections than one address has ports for, to one port.
const MAX_CONNECTIONS: usize = 60_000;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Load: with any of these, the requests are summed up")]
#[group(skip)]
pub(super) struct Args {
    /// Connections open at once, each a machine of its own
    #[arg(short = 'c', long, value_name = "N")]
    connections: Option<usize>,

    /// Requests in a second, whether the host keeps up or not; latency counts
    /// from when each was due
    #[arg(long, value_name = "PER SECOND")]
    rate: Option<f64>,

    /// Send no further request after this time
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    duration: Option<Duration>,

    /// Keep each connection open for this time after its last request
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    hold: Option<Duration>,

    /// A new connection for each request
    #[arg(long)]
    reconnect: bool,

    /// Connections that are opened and closed without a request, beside
    #[arg(long, value_name = "N")]
    probes: Option<u64>,
}

impl Args {
    pub(super) fn wanted(&self) -> bool {
        self.connections.is_some()
            || self.rate.is_some()
            || self.duration.is_some()
            || self.hold.is_some()
            || self.reconnect
            || self.probes.is_some()
    }
}

/// Refuses what makes no sense, before anything is opened.
pub(super) fn check(args: &super::Args) -> Result<(), Failure> {
    let load = &args.load;
    if !load
        .connections
        .is_none_or(|n| (1..=MAX_CONNECTIONS).contains(&n))
    {
        return Err(Failure::usage(format_args!(
            "--connections: give a number from 1 to {MAX_CONNECTIONS}"
        )));
    }
    if !load.rate.is_none_or(|rate| (0.001..=1e7).contains(&rate)) {
        return Err(Failure::usage(
            "--rate: give a number of requests per second from 0.001 to 10000000",
        ));
    }
    Ok(())
}

pub(super) async fn run(
    args: &super::Args,
    addresses: &[SocketAddr],
    request: BaseRequest,
) -> Result<ExitCode, Failure> {
    front::raise_descriptor_limit();
    let to = choose(args, addresses).await?;
    let connections = args.load.connections.unwrap_or(1);
    let requests = match (args.requests, args.load.duration) {
        (Some(requests), _) => requests,
        (None, Some(_)) => u64::MAX,
        (None, None) => u64::try_from(connections).unwrap_or(u64::MAX),
    };
    let load = Load::new(Settings {
        to,
        from: args.from.clone(),
        offer: args.offer(),
        encoding: args.encoding.encoding(),
        connections,
        requests,
        duration: args.load.duration,
        rate: args.load.rate,
        reconnect: args.load.reconnect,
        hold: args.load.hold.unwrap_or_default(),
        probes: args.load.probes.unwrap_or(0),
        within: args.timeout,
        request,
        seed: fastrand::u64(..),
    })
    .map_err(Failure::usage)?;
    let interrupted = watch(&load, requests).await?;
    let report = load.report();
    if args.json {
        print_json(&as_json(&report, &args.host.to_string(), to, interrupted))?;
    } else {
        print(&as_text(&report, interrupted))?;
    }
    Ok(ExitCode::from(exit_code(&report)))
}

/// The first address that takes a connection: the load goes there. With one
/// address there is no choice, and no connection that others would count.
async fn choose(args: &super::Args, addresses: &[SocketAddr]) -> Result<SocketAddr, Failure> {
    if let [only] = addresses {
        return Ok(*only);
    }
    let mut failed = None;
    for address in addresses {
        match connect(*address, None, args.timeout).await {
            Ok(_) => return Ok(*address),
            Err(error) => failed = Some(error.to_string()),
        }
    }
    Err(no_connection(&args.host, &failed.unwrap_or_default()))
}

/// Runs it, with a bar on a terminal. Ctrl-C ends it; whether it did.
async fn watch(load: &Load, requests: u64) -> Result<bool, Failure> {
    let bar = if std::io::stderr().is_terminal() {
        bar(requests)
    } else {
        ProgressBar::hidden()
    };
    let mut tick = tokio::time::interval(TICK);
    let interrupted = tokio::signal::ctrl_c();
    let run = load.run();
    tokio::pin!(run, interrupted);
    let ended_early = loop {
        tokio::select! {
            () = &mut run => break false,
            signal = &mut interrupted => {
                signal.map_err(Failure::other)?;
                break true;
            }
            _ = tick.tick() => {
                bar.set_position(load.progress().done());
                bar.set_message(format!("{} connections opened", load.progress().open()));
            }
        }
    };
    bar.finish_and_clear();
    Ok(ended_early)
}

fn bar(requests: u64) -> ProgressBar {
    let (bar, style) = if requests == u64::MAX {
        let style = "{spinner} {pos} requests, {per_sec}, {elapsed}, {msg}";
        (ProgressBar::new_spinner(), style)
    } else {
        let style = "{bar:30} {pos}/{len} requests, {per_sec}, {eta} left, {msg}";
        (ProgressBar::new(requests), style)
    };
    let style = ProgressStyle::with_template(style).expect("the template is a constant");
    bar.with_style(style)
}

fn exit_code(report: &Report) -> u8 {
    let outcomes = &report.outcomes;
    let of = |kind: &Kind| match kind {
        Kind::Seal => code::NOT_LAB,
        Kind::Protocol | Kind::Fault => code::NOT_KMS,
        Kind::Connect | Kind::Timeout | Kind::Closed => code::NO_CONNECTION,
    };
    let failed = outcomes.failed.keys().map(of).max().unwrap_or(0);
    let refused = if outcomes.refusals() > 0 {
        code::REFUSED
    } else {
        0
    };
    let probes = if outcomes.probes_failed > 0 {
        code::NO_CONNECTION
    } else {
        0
    };
    failed.max(refused).max(probes)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people, to whole numbers"
)]
fn per_second(report: &Report) -> f64 {
    let seconds = report.elapsed.as_secs_f64();
    if seconds > 0.0 {
        report.outcomes.replies() as f64 / seconds
    } else {
        0.0
    }
}

fn as_text(report: &Report, interrupted: bool) -> String {
    let outcomes = &report.outcomes;
    let mut text = String::new();
    let mut row = |label: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{label:<15}{value}").expect("memory takes what is written to it");
    };
    if interrupted {
        row("interrupted", &"not all was sent");
    }
    let seconds = report.elapsed.as_secs_f64();
    row("connections", &report.opened);
    row(
        "replies",
        &format_args!(
            "{} in {seconds:.2} s, {:.0} a second",
            outcomes.replies(),
            per_second(report)
        ),
    );
    row("answered", &outcomes.answered);
    for (code, count) in &outcomes.refused {
        row("refused", &format_args!("{count} with {code}"));
    }
    if outcomes.refused_otherwise > 0 {
        let count = outcomes.refused_otherwise;
        row("refused", &format_args!("{count} with other codes"));
    }
    for (kind, count) in &outcomes.failed {
        row("failed", &format_args!("{count} {}", kind.label()));
    }
    if let Some(first) = &report.first_failure {
        row("", &format_args!("the first: {first}"));
    }
    if outcomes.dropped > 0 {
        let count = outcomes.dropped;
        row(
            "dropped",
            &format_args!("{count} connections while they were held"),
        );
    }
    if outcomes.probes + outcomes.probes_failed > 0 {
        let (probes, failed) = (outcomes.probes, outcomes.probes_failed);
        row("probes", &format_args!("{probes}, {failed} failed"));
    }
    if let Some(latency) = &report.latency {
        row("latency", &quantiles(latency));
    }
    if let Some(latency) = &report.from_sending {
        row("from sending", &quantiles(latency));
    }
    text
}

fn quantiles(latency: &Latency) -> String {
    let Latency {
        min,
        mean,
        p50,
        p90,
        p99,
        p999,
        max,
    } = *latency;
    let named = [
        ("min", min),
        ("mean", mean),
        ("50%", p50),
        ("90%", p90),
        ("99%", p99),
        ("99.9%", p999),
        ("max", max),
    ];
    let parts = named.map(|(name, time)| format!("{name} {}", millis(time)));
    parts.join(", ")
}

fn as_json(report: &Report, host: &str, address: SocketAddr, interrupted: bool) -> Value {
    let outcomes = &report.outcomes;
    let refused = outcomes.refused.iter();
    let mut refused: Map<String, Value> = refused
        .map(|(code, count)| (code.to_string(), (*count).into()))
        .collect();
    if outcomes.refused_otherwise > 0 {
        refused.insert("other".to_owned(), outcomes.refused_otherwise.into());
    }
    let failed = |kind: &Kind| outcomes.failed.get(kind).copied().unwrap_or(0);
    let failed: Map<String, Value> = Kind::ALL
        .iter()
        .map(|kind| (kind.label().to_owned(), failed(kind).into()))
        .collect();
    json!({
        "v": 1,
        "host": host,
        "address": address.to_string(),
        "interrupted": interrupted,
        "seconds": report.elapsed.as_secs_f64(),
        "per_second": per_second(report),
        "connections": report.opened,
        "answered": outcomes.answered,
        "refused": refused,
        "failed": failed,
        "first_failure": report.first_failure,
        "dropped": outcomes.dropped,
        "probes": outcomes.probes,
        "probes_failed": outcomes.probes_failed,
        "latency_ms": report.latency.as_ref().map(latency_json),
        "from_sending_ms": report.from_sending.as_ref().map(latency_json),
    })
}

fn latency_json(latency: &Latency) -> Value {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    json!({
        "min": ms(latency.min),
        "mean": ms(latency.mean),
        "p50": ms(latency.p50),
        "p90": ms(latency.p90),
        "p99": ms(latency.p99),
        "p99_9": ms(latency.p999),
        "max": ms(latency.max),
    })
}
