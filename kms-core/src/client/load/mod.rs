//! Many connections that ask as fast as a host answers, or at a fixed rate.
//!
//! *Closed loop* (no rate): every connection sends its next request when the one
//! before is answered. It finds out how much a host can take; its latencies are
//! those of a host that is never asked more than that.
//!
//! *Open loop* (with a rate): request k is due at k/rate, whether the host keeps
//! up or not, and its latency counts from when it was due. A host that stalls for
//! a second so delays all requests due in it, as it would delay real clients;
//! counting from when a request was finally sent would hide that (the omission is
//! called coordinated). Whoever is free takes the next request. The time from
//! sending is kept beside it, since a generator has delays of its own: timers
//! wake it up to 1 ms late.
//!
//! Requests are sealed before they are timed. Of a connection's answers the first
//! is opened and checked whole; of the others it is checked that they are answers.
//! Where each request has a connection, that first one is the first of a place for
//! connections.

mod record;
mod run;
mod schedule;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::message::BaseRequest;
use crate::stub::Encoding;

use super::Offer;

pub use record::{Failure, Latency, MAX_CODES, Outcomes, Report};
pub use run::{Load, Progress};
pub use schedule::Schedule;

/// What to ask, how often, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host.
    pub to: SocketAddr,
    /// Local addresses, taken in turns; none is the system's choice.
    pub from: Vec<IpAddr>,
    /// What each connection offers.
    pub offer: Offer,
    /// What it asks in; none is what the host prefers.
    pub encoding: Option<Encoding>,
    /// How many connections.
    pub connections: usize,
    /// How many requests altogether.
    pub requests: u64,
    /// When no further request is sent, from the first one on.
    pub duration: Option<Duration>,
    /// Requests in a second altogether; none is a closed loop.
    pub rate: Option<f64>,
    /// A new connection for each request.
    pub reconnect: bool,
    /// How long a connection is kept open after its last request.
    pub hold: Duration,
    /// How many connections are opened and closed without a byte, beside.
    pub probes: u64,
    /// How long each answer is waited for.
    pub within: Duration,
    /// What is asked. Each connection (with [`Settings::reconnect`] each request)
    /// is a machine of its own: its number is added to the workstation name, and
    /// the client machine id is random.
    pub request: BaseRequest,
    /// Of the random ids and IVs.
    pub seed: u64,
}
