//! `kms-core serve`: a lab host.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, ValueEnum};
use kms_core::lab::LabSuite;
use kms_core::message::Epid;
use kms_core::responder::{Counting, Host, Policy, Whitelist};
use kms_core::server::{Metrics, Responder, ResponderSettings, fill_random};

use crate::value::{duration, hardware_id};
use crate::{Failure, front};

/// Where the help shows a host's own options; else they would stand below what is
/// flattened before them.
const PROTOCOL: &str = "Protocol";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) front: front::FrontArgs,
    /// How long a connection may ask nothing (vlmcsd's -t)
    #[arg(long, help_heading = PROTOCOL, value_name = "TIME", default_value = "30s", value_parser = duration)]
    idle_timeout: Duration,
    /// How long a call may take from its first byte to its last
    #[arg(long, help_heading = PROTOCOL, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pdu_timeout: Duration,
    /// Speak NDR64 beside NDR32
    #[arg(long, help_heading = PROTOCOL, value_name = "BOOL", action = ArgAction::Set, default_value_t = true)]
    ndr64: bool,
    /// Negotiate bind time features
    #[arg(long, help_heading = PROTOCOL, value_name = "BOOL", action = ArgAction::Set, default_value_t = true)]
    btfn: bool,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Answers")]
struct PolicyArgs {
    /// What the host calls itself, up to 63 UTF-16 units
    #[arg(long, value_name = "TEXT")]
    epid: Option<Epid>,
    /// The host's hardware id, told in protocol 6
    #[arg(long, value_name = "HEX", value_parser = hardware_id)]
    hardware_id: Option<[u8; 8]>,
    /// Minutes between attempts, told to clients
    #[arg(long, value_name = "MINUTES", default_value_t = 120)]
    activation_interval: u32,
    /// Minutes between renewals, told to clients
    #[arg(long, value_name = "MINUTES", default_value_t = 10_080)]
    renewal_interval: u32,
    /// Refuse: 1 unknown products, 2 retail and beta products, 3 both (vlmcsd's -K)
    #[arg(long, value_name = "LEVEL", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    whitelist: u8,
    /// Refuse clients whose clock is more than four hours off (vlmcsd's -c1)
    #[arg(long)]
    check_client_time: bool,
    /// How clients are counted
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Count::Stateless)]
    count: Count,
    /// The least number of clients that a host without lists tells
    #[arg(long, value_name = "N", default_value_t = 0)]
    least_clients: u32,
    /// Leave bytes after a request alone, rather than call it invalid
    #[arg(long)]
    tolerate_longer: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Count {
    /// Tell every client twice what it needs (vlmcsd's -M0)
    Stateless,
    /// By machine, starting with one less than is enough (-M1)
    Lists,
    /// By machine, starting with none (-M1 -E1)
    EmptyLists,
}

impl PolicyArgs {
    fn policy(&self) -> Policy {
        let defaults = Policy::default();
        Policy {
            epid: self.epid.unwrap_or(defaults.epid),
            hardware_id: self.hardware_id.unwrap_or(defaults.hardware_id),
            activation_interval: self.activation_interval,
            renewal_interval: self.renewal_interval,
            whitelist: Whitelist::from_level(self.whitelist).unwrap_or_default(),
            check_client_time: self.check_client_time,
            counting: match self.count {
                Count::Stateless => Counting::Stateless,
                Count::Lists => Counting::Lists { start_empty: false },
                Count::EmptyLists => Counting::Lists { start_empty: true },
            },
            least_clients: self.least_clients,
            tolerate_longer: self.tolerate_longer,
        }
    }
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let host = Host::new(args.policy.policy(), Box::new(LabSuite), &mut fill_random);
    // vlmcsd's words for where it is from.
    let epid_source = match args.policy.epid {
        Some(_) => "command line",
        None => "vlmcsd default",
    };
    let settings = ResponderSettings {
        idle: args.idle_timeout,
        pdu: args.pdu_timeout,
        detail: args.front.detail(),
        epid_source: epid_source.to_owned(),
        ndr64: args.ndr64,
        btfn: args.btfn,
    };
    front::run(&args.front, Metrics::default(), |log, metrics| {
        Ok(Responder::new(host, settings, log.clone(), metrics.clone()))
    })
    .await
}
