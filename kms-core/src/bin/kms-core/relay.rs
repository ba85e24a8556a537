//! `kms-core relay`: in front of a licensed host.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, ValueEnum};
use kms_core::endpoint::Endpoint;
use kms_core::relay::{ProxyVersion, Relay, RelaySettings};
use kms_core::server::Metrics;

use crate::value::duration;
use crate::{Failure, front};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) front: front::FrontArgs,
    #[command(flatten)]
    relay: RelayArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Relay")]
struct RelayArgs {
    /// The licensed host, as HOST, HOST:PORT or [IPv6]:PORT; several are tried in
    /// this order
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',', action = ArgAction::Append, required = true)]
    upstream: Vec<Endpoint>,
    /// How long a connection may be without a byte either way; Windows keeps its
    /// connections for 30 s
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    idle_timeout: Duration,
    /// How long a client's PDU may take from its first byte to its last, and bytes
    /// to be taken
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pdu_timeout: Duration,
    /// How long connecting to an address of an upstream may take
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    connect_timeout: Duration,
    /// How often each upstream is bound to, to see whether it answers
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    health_interval: Duration,
    /// Begin each connection to an upstream with a PROXY header
    #[arg(long, value_name = "VERSION", value_enum)]
    proxy_to: Option<ProxyTo>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProxyTo {
    /// One line of text
    V1,
    /// Binary
    V2,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let relay = args.relay;
    let settings = RelaySettings {
        upstreams: relay.upstream,
        idle: relay.idle_timeout,
        pdu: relay.pdu_timeout,
        connect: relay.connect_timeout,
        health: relay.health_interval,
        proxy_to: relay.proxy_to.map(|version| match version {
            ProxyTo::V1 => ProxyVersion::V1,
            ProxyTo::V2 => ProxyVersion::V2,
        }),
        detail: args.front.detail(),
    };
    front::run(&args.front, Metrics::of_relay(), |log, metrics| {
        let relay = Relay::new(settings, log.clone(), metrics.clone());
        // Ends with the runtime.
        tokio::spawn(relay.clone().watch_upstreams());
        Ok(relay)
    })
    .await
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use crate::Cli;

    #[test]
    fn the_relays_own_options_are_under_its_heading() {
        let mut cli = Cli::command();
        cli.build();
        let relay = cli.find_subcommand("relay").unwrap();
        let headed = relay
            .get_arguments()
            .filter(|argument| argument.get_help_heading() == Some("Relay"));
        let headed: Vec<_> = headed.filter_map(clap::Arg::get_long).collect();
        let own = [
            "upstream",
            "idle-timeout",
            "pdu-timeout",
            "connect-timeout",
            "health-interval",
            "proxy-to",
        ];
        assert_eq!(headed, own);
    }
}
