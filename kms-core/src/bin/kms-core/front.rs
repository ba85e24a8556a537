//! The options that every command with a port has, and what they open: listeners,
//! log, limits, admin port. Signals are dealt with here, too.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, ValueEnum};
use ipnet::IpNet;
use jiff::tz::TimeZone;
use kms_core::http;
use kms_core::limits::{Limits, Rate};
use kms_core::server::{Front, FrontSettings, Log, LogSettings, Metrics, Service, Target, admin};
use kms_core::vlmcsd_log::Detail;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::value::{address, duration, network, rate};
use crate::{Failure, config};

/// Connections the kernel keeps waiting, if it lets us.
const BACKLOG: i32 = 4096;
/// How long a stop waits for the log's last lines.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// What the log calls this program.
pub(crate) const PROGRAM: &str = concat!("kms-core ", env!("CARGO_PKG_VERSION"));

#[derive(Debug, clap::Args)]
pub(crate) struct FrontArgs {
    /// A TOML file with these options as its keys
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Where to listen; may be given several times. [::]:1688 takes IPv4 too
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',', action = ArgAction::Append, default_value = "127.0.0.1:1688", value_parser = address)]
    listen: Vec<SocketAddr>,
    /// Keep IPv4 out of [::]
    #[arg(long)]
    ipv6_only: bool,
    /// Write the ports that were bound into this file, one per line
    #[arg(long, value_name = "PATH")]
    port_file: Option<PathBuf>,
    /// Connections served at a time; the next one waits in the kernel
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    /// How long a stop waits for what is under way
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    drain: Duration,
    /// Serve /metrics, /healthz and, to this machine, /limits here
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    admin: Option<SocketAddr>,
    /// Peers that begin with a PROXY header (version 1 or 2), which is believed
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', action = ArgAction::Append, value_parser = network)]
    proxy_from: Vec<IpNet>,
    /// How long they may take for it
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    proxy_timeout: Duration,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Log")]
struct LogArgs {
    /// Append the log to this file, opened anew on SIGHUP; without it the log goes
    /// to standard output
    #[arg(long, value_name = "PATH")]
    log: Option<PathBuf>,
    /// How much to say of a request
    #[arg(long, value_name = "HOW", value_enum, default_value_t = LogDetail::Quiet)]
    log_detail: LogDetail,
    /// Begin lines with the local time (false: vlmcsd's -T0)
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = true)]
    log_stamp: bool,
    /// The time zone of the stamps, like Europe/Berlin; without it the system's
    #[arg(long, value_name = "ZONE")]
    log_timezone: Option<String>,
    /// Mark a connection's lines with its number, like [c=17]
    #[arg(long)]
    log_ids: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogDetail {
    /// Two lines (vlmcsd's -q)
    Quiet,
    /// Two blocks (vlmcsd's -v)
    Verbose,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits (see docs/limits.md)")]
struct LimitArgs {
    /// Open connections of one source
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit_connections: Option<u32>,
    /// New connections of one source per time, like 10/60s
    #[arg(long, value_name = "N/TIME", value_parser = rate)]
    limit_rate: Option<Rate>,
    /// How long a source that went over one of the two stays out
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    limit_overload: Duration,
    /// Whether the open connections of such a source are cut
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = true)]
    limit_drop: bool,
    /// Open connections of all sources together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit_total: Option<u32>,
    /// Bits of an IPv4 address that make a source
    #[arg(long, value_name = "BITS", default_value_t = 32, value_parser = clap::value_parser!(u8).range(..=32))]
    limit_ipv4_prefix: u8,
    /// Bits of an IPv6 address that make a source
    #[arg(long, value_name = "BITS", default_value_t = 64, value_parser = clap::value_parser!(u8).range(..=128))]
    limit_ipv6_prefix: u8,
    /// Networks that nothing is limited for
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', action = ArgAction::Append, value_parser = network)]
    limit_allow: Vec<IpNet>,
    /// Decide, count and log, but let everybody in
    #[arg(long)]
    limit_dry_run: bool,
    /// How many sources are remembered
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    limit_sources: u32,
}

impl FrontArgs {
    /// How much the log says of a request.
    pub(crate) fn detail(&self) -> Detail {
        match self.log.log_detail {
            LogDetail::Quiet => Detail::Quiet,
            LogDetail::Verbose => Detail::Verbose,
        }
    }

    fn limits(&self) -> Limits {
        let args = &self.limits;
        Limits {
            max_connections: args.limit_connections,
            rate: args.limit_rate,
            overload_ttl: args.limit_overload,
            drop_existing: args.limit_drop,
            max_total: args.limit_total,
            ipv4_prefix: args.limit_ipv4_prefix,
            ipv6_prefix: args.limit_ipv6_prefix,
            allow: args.limit_allow.clone(),
            dry_run: args.limit_dry_run,
            max_sources: usize::try_from(args.limit_sources).unwrap_or(usize::MAX),
        }
    }

    fn open_log(&self) -> Result<Log, Failure> {
        let args = &self.log;
        let zone = match &args.log_timezone {
            None => TimeZone::system(),
            Some(name) => TimeZone::get(name).map_err(|_| {
                Failure::usage(format_args!(
                    "--log-timezone: there is no time zone {name:?}; use a name like Europe/Berlin"
                ))
            })?,
        };
        let target = args.log.clone().map_or(Target::Stdout, Target::File);
        let settings = LogSettings {
            stamps: args.log_stamp.then_some(zone),
            ids: args.log_ids,
        };
        Log::open(target, settings).map_err(|error| {
            let path = args.log.clone().unwrap_or_default();
            Failure::usage(format_args!(
                "--log: cannot open {}: {error}; name a file that can be appended to",
                path.display()
            ))
        })
    }

    fn bind(&self) -> Result<Vec<TcpListener>, Failure> {
        let mut listeners = Vec::new();
        for address in &self.listen {
            listeners.push(bind("--listen", *address, self.is_only_v6(*address))?);
        }
        Ok(listeners)
    }

    /// Whether IPv4 is kept out of `[::]`: beside a listener on any IPv4 address at
    /// the same port the kernel would refuse both.
    fn is_only_v6(&self, address: SocketAddr) -> bool {
        let is_beside = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
        self.ipv6_only || (address.port() != 0 && self.listen.iter().any(is_beside))
    }
}

fn bind(key: &str, address: SocketAddr, only_v6: bool) -> Result<TcpListener, Failure> {
    http::listen(address, only_v6, BACKLOG)
        .and_then(TcpListener::from_std)
        .map_err(|error| {
            Failure::usage(format_args!(
                "{key}: cannot listen on {address}: {error}; choose another address or port"
            ))
        })
}

/// Opens everything, serves until a signal says stop, and closes it again.
/// `service` is made when the log is there.
pub(crate) async fn run<S: Service>(
    args: &FrontArgs,
    metrics: Metrics,
    service: impl FnOnce(&Log, &Metrics) -> Result<S, Failure>,
) -> Result<ExitCode, Failure> {
    let signals = Signals::new()?;
    raise_descriptor_limit();
    let settings = FrontSettings {
        limits: args.limits(),
        proxy_from: args.proxy_from.clone(),
        proxy_deadline: args.proxy_timeout,
        max_connections: args.max_connections,
        drain: args.drain,
    };
    let listeners = args.bind()?;
    let admin = match args.admin {
        Some(address) => Some(bind("--admin", address, false)?),
        None => None,
    };
    let log = args.open_log()?;
    let service = service(&log, &metrics)?;
    let front = Front::new(settings, log.clone(), metrics).map_err(Failure::usage)?;
    say_where(args, &listeners, admin.as_ref(), &log)?;
    log.write(None, |log| log.started(PROGRAM));

    let (stop, stopped) = watch::channel(false);
    let admin = admin.map(|listener| {
        let mut stopped = stopped.clone();
        let shutdown = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        tokio::spawn(admin::serve(listener, front.clone(), shutdown))
    });
    let reload = front.clone();
    front.run(listeners, service, signals.stopped(reload)).await;
    stop.send_replace(true);
    if let Some(admin) = admin {
        admin.await.map_err(Failure::other)?;
    }
    log.write(None, |log| log.stopped(PROGRAM));
    if !log.finish(LOG_PATIENCE).await {
        tracing::warn!("the log's last lines were not taken in time");
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells which ports were bound: in the file, in the log, on standard error.
fn say_where(
    args: &FrontArgs,
    listeners: &[TcpListener],
    admin: Option<&TcpListener>,
    log: &Log,
) -> Result<(), Failure> {
    let local = |listener: &TcpListener| listener.local_addr().map_err(Failure::other);
    let listening: Vec<_> = listeners.iter().map(local).collect::<Result<_, _>>()?;
    if let Some(path) = &args.port_file {
        let ports: String = listening
            .iter()
            .map(|local| format!("{}\n", local.port()))
            .collect();
        fs::write(path, ports).map_err(|error| {
            let path = path.display();
            Failure::usage(format_args!(
                "--port-file: cannot write {path}: {error}; name a file that can be written"
            ))
        })?;
    }
    for local in listening {
        log.write(None, |log| log.listening(local));
        tracing::info!("listening on {local}");
    }
    if let Some(admin) = admin {
        tracing::info!("metrics and limits on {}", local(admin)?);
    }
    Ok(())
}

/// As many descriptors as we may have: one connection is one.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(Failure::other);
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// Returns on SIGTERM and SIGINT; on SIGHUP opens the log anew and reads the
    /// limits again.
    async fn stopped(mut self, front: Front) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    front.log().reopen();
                    match reread() {
                        Ok(limits) => match front.set_limits(limits) {
                            Ok(()) => tracing::info!("log reopened, limits read again"),
                            Err(error) => tracing::error!("the old limits stay: {error}"),
                        },
                        Err(why) => tracing::error!("the old limits stay: {why}"),
                    }
                }
            }
        }
    }
}

/// The limits as they are configured now.
fn reread() -> Result<Limits, String> {
    let args: Vec<OsString> = std::env::args_os().collect();
    match crate::parse(&args) {
        Ok(cli) => cli
            .front()
            .map(FrontArgs::limits)
            .ok_or_else(|| "this command has no limits".to_owned()),
        Err(config::Problem::Wrong(why)) => Err(why),
        Err(config::Problem::Help(_)) => Err("the command line asks for help".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        front: FrontArgs,
    }

    #[test]
    fn beside_any_ipv4_listener_on_its_port_ipv6_is_alone() {
        let any: SocketAddr = "[::]:28802".parse().unwrap();
        for (listen, only_v6) in [
            ("[::]:28802", false),
            ("[::]:28802,0.0.0.0:28802", true),
            ("[::]:28802,127.0.0.1:28802", true),
            ("192.0.2.1:28802,[::]:28802", true),
            ("[::]:28802,127.0.0.1:28803", false),
            ("[::]:28802,[::1]:28802", false),
        ] {
            let args = Cli::try_parse_from(["kms-core", "--listen", listen]).unwrap();
            assert_eq!(args.front.is_only_v6(any), only_v6, "{listen}");
        }
        // Free ports are never the same.
        let args = Cli::try_parse_from(["kms-core", "--listen", "[::]:0,127.0.0.1:0"]).unwrap();
        assert!(!args.front.is_only_v6("[::]:0".parse().unwrap()));
    }
}
