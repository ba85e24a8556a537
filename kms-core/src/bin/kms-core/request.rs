//! `kms-core request`: a lab client.

mod ask;
mod load;
mod machine;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use kms_core::catalog::Protocol;
use kms_core::client::Offer;
use kms_core::endpoint::Endpoint;
use kms_core::stub::Encoding;

use crate::{Failure, value};

/// What the process ends with, beside 0, 1 and 2. Of several requests the worst
/// counts, which is the highest.
mod code {
    /// The host refused with a result code.
    pub(super) const REFUSED: u8 = 3;
    /// No connection, or none that lasted until the answer.
    pub(super) const NO_CONNECTION: u8 = 4;
    /// What answers is no KMS host.
    pub(super) const NOT_KMS: u8 = 5;
    /// It is one, and does not speak the lab suite.
    pub(super) const NOT_LAB: u8 = 6;
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 answered, 2 wrong usage, 3 refused, 4 no connection, \
    5 not a KMS host, 6 not a lab host; 1 anything else.\n\
    The requests are sealed with the project's lab suite. No product's host opens them, and \
    nothing can be activated with the answers."
)]
pub(crate) struct Args {
    /// The lab host, as HOST, HOST:PORT or [IPv6]:PORT
    host: Endpoint,

    /// Transfer syntax; auto takes what the host prefers
    #[arg(long, value_enum, default_value_t = Syntax::Auto)]
    encoding: Syntax,

    /// Do not offer bind time feature negotiation
    #[arg(long)]
    no_features: bool,

    /// How many requests, altogether
    #[arg(short = 'n', long, value_name = "N")]
    requests: Option<u64>,

    /// How long a connection, a bind or an answer is waited for
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = value::duration)]
    timeout: Duration,

    /// Local address to connect from; several take turns
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    from: Vec<IpAddr>,

    /// JSON, one object per line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: machine::Args,

    #[command(flatten)]
    load: load::Args,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Syntax {
    Auto,
    Ndr32,
    Ndr64,
}

impl Syntax {
    fn encoding(self) -> Option<Encoding> {
        match self {
            Self::Auto => None,
            Self::Ndr32 => Some(Encoding::Ndr32),
            Self::Ndr64 => Some(Encoding::Ndr64),
        }
    }
}

impl Args {
    fn offer(&self) -> Offer {
        let offer = self.encoding.encoding().map(Offer::only);
        Offer {
            features: !self.no_features,
            ..offer.unwrap_or_default()
        }
    }
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let request = args.machine.request(now(), &mut fastrand::Rng::new())?;
    let load = args.load.wanted();
    load::check(&args)?;
    let addresses = resolve(&args.host).await?;
    if load {
        load::run(&args, &addresses, request).await
    } else {
        ask::run(&args, &addresses, request).await
    }
}

/// The addresses of a host, by the system's resolver.
async fn resolve(host: &Endpoint) -> Result<Vec<SocketAddr>, Failure> {
    let found = tokio::net::lookup_host(host.to_string()).await;
    let found: Vec<SocketAddr> = match found {
        Ok(found) => found.collect(),
        Err(error) => return Err(no_connection(host, &error)),
    };
    if found.is_empty() {
        return Err(no_connection(host, &"the name has no address"));
    }
    Ok(found)
}

fn no_connection(host: &Endpoint, why: &dyn std::fmt::Display) -> Failure {
    Failure {
        code: code::NO_CONNECTION,
        message: format!("{host}: {why}; `kms-core doctor {host}` looks closer"),
    }
}

fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Ndr32 => "ndr32",
        Encoding::Ndr64 => "ndr64",
    }
}

/// `4`, `5.0`, …
fn protocol(text: &str) -> Result<Protocol, String> {
    match text.strip_suffix(".0").unwrap_or(text) {
        "4" => Ok(Protocol::V4),
        "5" => Ok(Protocol::V5),
        "6" => Ok(Protocol::V6),
        _ => Err("the protocols are 4, 5 and 6".to_owned()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the client's clock, sent with each request"
)]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
