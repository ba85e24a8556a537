//! The hosts behind a relay: which of them answer, and a connection to one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client::{CallError, Connection, Offer, connect};
use crate::endpoint::Endpoint;

use super::ProxyVersion;

/// How many addresses of one upstream are tried.
pub const MAX_ADDRESSES: usize = 16;

/// All upstreams of a relay, best first. Clones are handles to the same ones.
#[derive(Clone, Debug)]
pub struct Upstreams {
    all: Arc<[Upstream]>,
    within: Duration,
    proxy_to: Option<ProxyVersion>,
}

#[derive(Debug)]
struct Upstream {
    endpoint: Endpoint,
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// Until a check or a connection says otherwise it is thought to answer.
    healthy: bool,
    /// Of its name when it was last looked up, the one that answered first.
    addresses: Vec<SocketAddr>,
}

/// A connection to an upstream.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
}

impl Upstreams {
    /// Nothing is known of them yet. `within` is for each address.
    #[must_use]
    pub fn new(endpoints: &[Endpoint], within: Duration) -> Self {
        let all = endpoints.iter().map(|endpoint| Upstream {
            endpoint: endpoint.clone(),
            state: Mutex::new(State {
                healthy: true,
                addresses: Vec::new(),
            }),
        });
        Self {
            all: all.collect(),
            within,
            proxy_to: None,
        }
    }

    /// The same, where the upstreams expect a PROXY header: they hang up on whoever
    /// begins without one, so a check begins with one, too.
    #[must_use]
    pub fn introduced_by(self, proxy_to: Option<ProxyVersion>) -> Self {
        Self { proxy_to, ..self }
    }

    /// For each upstream whether it answered when it was last asked.
    #[must_use]
    pub fn healthy(&self) -> Vec<bool> {
        let all = self.all.iter();
        all.map(|upstream| upstream.state().healthy).collect()
    }

    /// Checks each upstream every so often, for ever.
    pub async fn watch(self, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.check().await;
        }
    }

    /// Binds to each upstream once.
    pub async fn check(&self) {
        for upstream in self.all.iter() {
            let checked = upstream.check(self.proxy_to, self.within).await;
            upstream.note(checked.err());
        }
    }

    /// A connection to the first upstream that takes one: of those that answer
    /// first, then of the others, which may have come back.
    pub(super) async fn connect(&self) -> Option<Connected> {
        let healthy = self.healthy();
        for wanted in [true, false] {
            let chosen = self.all.iter().zip(&healthy);
            let chosen = chosen.filter(|(_, healthy)| **healthy == wanted);
            for (upstream, _) in chosen {
                match upstream.connect(self.within).await {
                    Ok(connected) => return Some(connected),
                    Err(why) => upstream.note(Some(why)),
                }
            }
        }
        None
    }
}

impl Upstream {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers whether it answers; says so when that changes.
    fn note(&self, problem: Option<String>) {
        let healthy = problem.is_none();
        let before = std::mem::replace(&mut self.state().healthy, healthy);
        let upstream = &self.endpoint;
        match problem {
            Some(why) if before => tracing::warn!("upstream {upstream} does not answer: {why}"),
            None if !before => tracing::info!("upstream {upstream} answers again"),
            _ => {}
        }
    }

    /// Looks its name up and binds to the first address that lets us.
    async fn check(&self, proxy_to: Option<ProxyVersion>, within: Duration) -> Result<(), String> {
        let mut addresses = self.look_up(within).await?;
        let mut why = "the name has no address".to_owned();
        for at in 0..addresses.len() {
            let Some(address) = addresses.get(at).copied() else {
                break;
            };
            match bind(address, proxy_to, within).await {
                Ok(()) => {
                    addresses.swap(0, at);
                    self.state().addresses = addresses;
                    return Ok(());
                }
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        self.state().addresses = addresses;
        Err(why)
    }

    async fn connect(&self, within: Duration) -> Result<Connected, String> {
        let mut addresses = self.state().addresses.clone();
        if addresses.is_empty() {
            addresses = self.look_up(within).await?;
            self.state().addresses.clone_from(&addresses);
        }
        let mut why = "the name has no address".to_owned();
        for address in addresses {
            match connect(address, None, within).await {
                Ok(stream) => return Ok(Connected { stream, address }),
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        Err(why)
    }

    async fn look_up(&self, within: Duration) -> Result<Vec<SocketAddr>, String> {
        let found = timeout(within, tokio::net::lookup_host(self.endpoint.to_string())).await;
        match found {
            Ok(Ok(found)) => Ok(found.take(MAX_ADDRESSES).collect()),
            Ok(Err(error)) => Err(format!("its name does not resolve: {error}")),
            Err(_) => Err("its name does not resolve in time".to_owned()),
        }
    }
}

/// Binds, in this time for each step, and says why it cannot.
async fn bind(
    address: SocketAddr,
    proxy_to: Option<ProxyVersion>,
    within: Duration,
) -> Result<(), String> {
    let failed = |error: CallError| error.to_string();
    let mut stream = connect(address, None, within).await.map_err(failed)?;
    if let Some(version) = proxy_to {
        let header = version.for_itself().map_err(|error| error.to_string())?;
        let written = timeout(within, stream.write_all(&header)).await;
        let written = written.map_err(|_| format!("no header is taken within {within:?}"))?;
        written.map_err(|error| format!("sending the header: {error}"))?;
    }
    let mut connection = Connection::new(stream, within);
    let bound = connection.bind(Offer::default()).await;
    bound.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests;
