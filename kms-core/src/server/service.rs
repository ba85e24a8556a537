//! What stands behind a [`Front`](super::Front): whatever serves connections.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::sync::watch;

/// A connection that was let in.
#[derive(Debug)]
pub struct Connection {
    /// Its socket, with TCP_NODELAY set.
    pub stream: TcpStream,
    /// What was read from it already, behind a PROXY header.
    pub early: Vec<u8>,
    /// Whose it is; an IPv4-mapped address is an IPv4 address here.
    pub peer: SocketAddr,
    /// The local TCP port.
    pub port: u16,
    /// Its number in the log, from 1.
    pub number: u64,
    /// Tells when to stop.
    pub stop: Stop,
}

/// What is done with connections.
pub trait Service: Clone + Send + Sync + 'static {
    /// Serves one connection to its end. Once [`Connection::stop`] says so it
    /// finishes what is under way and returns. It may be dropped at any await.
    fn serve(&self, connection: Connection) -> impl Future<Output = End> + Send;
}

/// What ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closed it, or went away.
    Peer,
    /// Nothing was asked for too long.
    Idle,
    /// What was begun was not finished in time, or an answer not taken.
    Slow,
    /// What the peer sent; it was told why where there are words for it.
    Protocol,
    /// The server stops.
    Stopped,
    /// It was cut: its source went over a limit, or the server could not wait.
    Cut,
    /// What the connection was for is not to be had: a relay's upstream.
    Upstream,
}

impl End {
    /// Every end, for counters that are there from the start.
    pub const ALL: [Self; 7] = [
        Self::Peer,
        Self::Idle,
        Self::Slow,
        Self::Protocol,
        Self::Stopped,
        Self::Cut,
        Self::Upstream,
    ];

    /// One word, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Protocol => "protocol",
            Self::Stopped => "stopped",
            Self::Cut => "cut",
            Self::Upstream => "upstream",
        }
    }
}

/// Tells whether, and when, to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A stop that is requested when the sender says `true`, or is gone.
    #[must_use]
    pub fn new(stop: watch::Receiver<bool>) -> Self {
        Self(stop)
    }

    /// Returns when it is time to stop.
    pub async fn requested(&mut self) {
        // Whoever could say it is gone: that is a stop, too.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
