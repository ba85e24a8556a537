//! What is wrong with a KMS endpoint, found out step by step.
//!
//! Names (SRV, A, AAAA), TCP, the RPC bind, the KMS interface and its transfer
//! syntaxes, each a [`Step`] with its time; then one [`Verdict`], which says what
//! to do. It needs no key and asks for no activation, so it works with every KMS
//! host; what counts there is one connection for each address (two where nothing
//! like RPC answers).
//!
//! Names and bytes from the network may be anybody's. What is shown of them is
//! bounded and cleaned ([`crate::text::clean`]).

mod banner;
mod examine;
mod names;
mod probe;
mod verdict;

use std::net::SocketAddr;
use std::time::Duration;

pub use banner::Banner;
pub use examine::examine;
pub use verdict::{Finding, Verdict, judge};

use crate::endpoint::Endpoint;

/// How many hosts of a domain are examined, in the order clients try them.
pub const MAX_HOSTS: usize = 16;

/// How many addresses are examined altogether.
pub const MAX_ADDRESSES: usize = 32;

/// What to examine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One host.
    Host(Endpoint),
    /// The hosts that a domain names in `_vlmcs._tcp`.
    Domain(String),
}

/// How.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// For everything: a quarter each for names, for connecting, for RPC, and for
    /// a second look at what is not RPC.
    pub within: Duration,
    /// Whom to ask for names; none is the system's configuration.
    pub nameserver: Option<SocketAddr>,
    /// One address that works is enough for a good verdict.
    pub any: bool,
}

/// What a step looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The domain's service records.
    Srv,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// A connection.
    Tcp,
    /// The bind.
    Rpc,
    /// The KMS interface and its transfer syntaxes.
    Kms,
    /// What answers where no RPC does.
    Http,
}

/// Whether a step went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It did.
    Good,
    /// It did not.
    Bad,
    /// It says nothing about the host: no IPv6 address, no route from here.
    Neutral,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it looked at.
    pub stage: Stage,
    /// A name or an address.
    pub subject: String,
    /// Whether it went well.
    pub mark: Mark,
    /// What was found.
    pub detail: String,
    /// How long it took.
    pub took: Duration,
}

/// Everything that was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// In order.
    pub steps: Vec<Step>,
    /// What became of each address.
    pub findings: Vec<(SocketAddr, Finding)>,
    /// What it comes to.
    pub verdict: Verdict,
}

impl Stage {
    /// `SRV`, `TCP`, …
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Srv => "SRV",
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Tcp => "TCP",
            Self::Rpc => "RPC",
            Self::Kms => "KMS",
            Self::Http => "HTTP",
        }
    }
}

impl Mark {
    /// `ok`, `FAIL` or `-`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Bad => "FAIL",
            Self::Neutral => "-",
        }
    }
}
