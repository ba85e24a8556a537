//! The relay: real clients in front of a KMS host that its operator has licensed.
//!
//! Bytes pass unchanged both ways. A decoded copy ([`Observer`]) serves the log
//! and the counters, and what is protected there is logged as such. A connection
//! reaches an upstream only when its first PDU is a bind for the KMS interface
//! ([`first_pdu`]); after that, no error of the copy stops its bytes.
//!
//! With the feature `server`, a `Relay` is a `server::Service`: limits, PROXY headers
//! of balancers, accepted and closed lines and the way to stop are its `Front`'s.

mod first;
#[cfg(feature = "server")]
mod introduce;
mod observer;
#[cfg(feature = "server")]
mod pipe;
#[cfg(feature = "server")]
mod service;
#[cfg(feature = "server")]
mod upstream;

use std::time::Duration;

pub use first::{First, Junk, first_pdu};
pub use observer::{MAX_PENDING, Observer, Outcome, Seen, Sight, Undecoded};
#[cfg(feature = "server")]
pub use service::Relay;
#[cfg(feature = "server")]
pub use upstream::{MAX_ADDRESSES, Upstreams};

use crate::endpoint::Endpoint;
use crate::vlmcsd_log::Detail;

/// What a relay is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// The hosts behind it, best first.
    pub upstreams: Vec<Endpoint>,
    /// How long a connection may be without a byte either way. Windows keeps its
    /// connections for 30 s after the last call.
    pub idle: Duration,
    /// How long a PDU of a client may take from its first byte to its last, and
    /// bytes may wait to be taken.
    pub pdu: Duration,
    /// How long connecting to one address of an upstream may take, and the answer
    /// to a health check's bind.
    pub connect: Duration,
    /// How often each upstream is bound to, to see whether it answers.
    pub health: Duration,
    /// What tells an upstream whom a connection is for.
    pub proxy_to: Option<ProxyVersion>,
    /// How much the log says of a request that is not protected.
    pub detail: Detail,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            idle: Duration::from_secs(60),
            pdu: Duration::from_secs(10),
            connect: Duration::from_secs(3),
            health: Duration::from_secs(30),
            proxy_to: None,
            detail: Detail::Quiet,
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}
