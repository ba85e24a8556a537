//! The loop in front of a service: takes connections, asks the limits, believes
//! PROXY headers of listed peers, logs, and stops without cutting answers short.
//!
//! It knows nothing of what a connection is for, so that a relay stands behind
//! the same door as a responder ([`Service`]).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use rustix::io::Errno;
use rustix::net::netdevice::index_to_name_inlined;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::limits::{Limits, LimitsError, Overloaded, Reason};
use crate::vlmcsd_log::Peer;

use super::gate::{Gate, Place};
use super::proxy::introduction;
use super::service::{Connection, End, Service, Stop};
use super::{Log, Metrics, ProxyOutcome, Snapshot};

/// Pause after an accept that failed for want of descriptors or memory, so that
/// the loop does not spin on it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often reports of refusals are looked for.
const REPORT_PAUSE: Duration = Duration::from_secs(1);
/// How long tasks that were cut get to end.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// What a [`Front`] is configured with.
#[derive(Clone, Debug)]
pub struct FrontSettings {
    /// Limits per source; none by default.
    pub limits: Limits,
    /// Peers that begin each connection with a PROXY header.
    pub proxy_from: Vec<IpNet>,
    /// How long they may take for it.
    pub proxy_deadline: Duration,
    /// Connections served at a time. The next one waits in the kernel's backlog.
    pub max_connections: u32,
    /// How long a stop waits for what is under way.
    pub drain: Duration,
}

impl Default for FrontSettings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            proxy_from: Vec::new(),
            proxy_deadline: Duration::from_secs(5),
            max_connections: 16_384,
            drain: Duration::from_secs(10),
        }
    }
}

/// The loop and what it needs. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Front(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: FrontSettings,
    gate: Arc<Gate>,
    log: Log,
    metrics: Metrics,
    places: Arc<Semaphore>,
    next_number: AtomicU64,
    stop: watch::Sender<bool>,
}

impl Front {
    /// A front that has seen no connection yet.
    ///
    /// # Errors
    /// [`LimitsError`] for limits that cannot be.
    pub fn new(settings: FrontSettings, log: Log, metrics: Metrics) -> Result<Self, LimitsError> {
        let gate = Gate::new(settings.limits.clone())?;
        let places = usize::try_from(settings.max_connections).unwrap_or(usize::MAX);
        Ok(Self(Arc::new(Shared {
            gate: Arc::new(gate),
            log,
            metrics,
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            next_number: AtomicU64::new(1),
            stop: watch::Sender::new(false),
            settings,
        })))
    }

    /// Serves the connections of all `listeners` until `shutdown` is done. Then it
    /// takes no more, and waits for what is under way, at most
    /// [`FrontSettings::drain`].
    pub async fn run<S: Service>(
        &self,
        listeners: Vec<TcpListener>,
        service: S,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut loops = JoinSet::new();
        for listener in listeners {
            loops.spawn(self.clone().accept(listener, service.clone()));
        }
        loops.spawn(self.clone().report());
        shutdown.await;
        self.0.stop.send_replace(true);
        while loops.join_next().await.is_some() {}
        self.drained().await;
        while let Some(report) = self.0.gate.last_report() {
            self.log_report(report);
        }
    }

    /// The log that it writes to.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What a scrape needs beside the counters.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (sources, overloaded, untracked) = self.0.gate.numbers(now());
        let number = |count| u64::try_from(count).unwrap_or(u64::MAX);
        Snapshot {
            log_lost: self.0.log.lost(),
            untracked,
            sources: number(sources),
            overloaded: number(overloaded),
        }
    }

    /// Goes on with other limits.
    ///
    /// # Errors
    /// [`LimitsError`]; then the old ones stay.
    pub fn set_limits(&self, limits: Limits) -> Result<(), LimitsError> {
        self.0.gate.set_limits(limits)
    }

    /// The overload table, by source.
    #[must_use]
    pub fn overloaded(&self) -> Vec<Overloaded> {
        self.0.gate.overloaded(now())
    }

    /// Takes sources off the overload table that have been on it for `age`, and
    /// says how many.
    #[must_use]
    pub fn expire(&self, age: Duration) -> usize {
        self.0.gate.expire(age, now())
    }

    /// Empties the overload table, and says how many were on it.
    #[must_use]
    pub fn flush(&self) -> usize {
        self.0.gate.flush(now())
    }

    fn stop(&self) -> Stop {
        Stop::new(self.0.stop.subscribe())
    }

    /// One listener's loop. While connections wait in the kernel an accept is ready
    /// at once, so a burst of them is taken without going to sleep between two.
    async fn accept<S: Service>(self, listener: TcpListener, service: S) {
        let port = listener.local_addr().map_or(0, |local| local.port());
        let mut stop = self.stop();
        let mut stopped = pin!(stop.requested());
        let mut failing = false;
        loop {
            let permit = tokio::select! {
                biased;
                () = &mut stopped => return,
                // The place first: what cannot be served is not accepted.
                permit = Arc::clone(&self.0.places).acquire_owned() => permit,
            };
            let Ok(mut permit) = permit else { return };
            // A refused connection leaves its place to the next one.
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = &mut stopped => return,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, peer)) => {
                        failing = false;
                        match self.admit(stream, peer, port, permit, &service) {
                            None => break,
                            Some(kept) => permit = kept,
                        }
                    }
                    Err(error) => {
                        self.0.metrics.accept_error();
                        if is_of_one_connection(&error) {
                            continue;
                        }
                        // Once, not ten times a second.
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%error, "cannot accept connections: waiting");
                        }
                        tokio::select! {
                            () = &mut stopped => return,
                            () = sleep(ACCEPT_PAUSE) => {}
                        }
                    }
                }
            }
        }
    }

    /// Starts a task for the connection, or gives its place back.
    fn admit<S: Service>(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        port: u16,
        permit: OwnedSemaphorePermit,
        service: &S,
    ) -> Option<OwnedSemaphorePermit> {
        let shared = &self.0;
        shared.metrics.accepted();
        let peer = canonical(peer);
        let number = shared.next_number.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            stream,
            early: Vec::new(),
            peer,
            port,
            number,
            stop: self.stop(),
        };
        let (front, service) = (self.clone(), service.clone());
        let trusted = |net: &IpNet| net.contains(&peer.ip());
        let task = if shared.settings.proxy_from.iter().any(trusted) {
            let place = shared.gate.enter(number);
            tokio::spawn(async move {
                let _permit = permit;
                front.introduced(connection, place, service).await;
            })
        } else {
            match shared.gate.admit(number, peer.ip(), now()) {
                Ok((place, objection)) => {
                    objection.inspect(|reason| shared.metrics.limited(*reason));
                    tokio::spawn(async move {
                        let _permit = permit;
                        front.served(connection, place, service).await;
                    })
                }
                Err(reason) => {
                    shared.metrics.limited(reason);
                    return Some(permit);
                }
            }
        };
        shared.gate.started(number, task.abort_handle());
        None
    }

    /// Reads the PROXY header, then asks the limits about whom it names. A listed
    /// peer that speaks for itself is not limited.
    async fn introduced<S: Service>(
        self,
        mut connection: Connection,
        mut place: Place,
        service: S,
    ) {
        let shared = &self.0;
        let header = introduction(&mut connection.stream);
        let introduction = match timeout(shared.settings.proxy_deadline, header).await {
            Ok(Ok(Some(introduction))) => introduction,
            Ok(Ok(None) | Err(_)) | Err(_) => {
                shared.metrics.proxied(ProxyOutcome::Broken);
                return;
            }
        };
        connection.early = introduction.early;
        if let Some(client) = introduction.client {
            shared.metrics.proxied(ProxyOutcome::Address);
            connection.peer = canonical(client);
            match place.admit(connection.peer.ip(), now()) {
                Ok(objection) => {
                    objection.inspect(|reason| shared.metrics.limited(*reason));
                }
                Err(reason) => {
                    shared.metrics.limited(reason);
                    return;
                }
            }
        } else {
            shared.metrics.proxied(ProxyOutcome::Local);
        }
        self.served(connection, place, service).await;
    }

    async fn served<S: Service>(self, connection: Connection, place: Place, service: S) {
        let mut visit = Visit::begin(self.0.clone(), &connection, place);
        // Not all kernels have it; without it answers are late, not wrong.
        let _ = connection.stream.set_nodelay(true);
        visit.end = service.serve(connection).await;
    }

    /// Writes reports of refusals when they are due.
    async fn report(self) {
        let mut stop = self.stop();
        let mut stopped = pin!(stop.requested());
        let mut ticks = interval(REPORT_PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut stopped => return,
                _ = ticks.tick() => {}
            }
            while let Some(report) = self.0.gate.due_report(now()) {
                self.log_report(report);
            }
        }
    }

    fn log_report(&self, report: crate::limits::Report) {
        let reason: Reason = report.reason;
        self.0.log.write(None, |log| {
            log.limited(report.source, reason.as_str(), report.count);
        });
    }

    /// Waits until all places are free, cuts who does not leave in time.
    async fn drained(&self) {
        let places = &self.0.places;
        let all = self.0.settings.max_connections;
        if timeout(self.0.settings.drain, places.acquire_many(all))
            .await
            .is_err()
        {
            let left = usize::try_from(all).unwrap_or(usize::MAX) - places.available_permits();
            tracing::warn!(
                connections = left,
                "cutting connections that did not end in time"
            );
            self.0.gate.cut_all();
            let _ = timeout(CUT_GRACE, places.acquire_many(all)).await;
        }
    }
}

/// A connection between its accepted and its closed line.
struct Visit {
    shared: Arc<Shared>,
    peer: SocketAddr,
    number: u64,
    /// Of its address, by the name that the interface had when it came.
    zone: Option<Box<str>>,
    end: End,
    _place: Place,
}

impl Visit {
    fn begin(shared: Arc<Shared>, connection: &Connection, place: Place) -> Self {
        let &Connection { peer, number, .. } = connection;
        shared.metrics.opened();
        let visit = Self {
            shared,
            peer,
            number,
            zone: zone(&connection.stream, peer),
            end: End::Cut,
            _place: place,
        };
        let log = &visit.shared.log;
        log.write(Some(number), |log| log.accepted(visit.named()));
        visit
    }

    fn named(&self) -> Peer<'_> {
        Peer {
            address: self.peer,
            zone: self.zone.as_deref(),
        }
    }
}

impl Drop for Visit {
    /// Also when the task is cut.
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.metrics.closed(self.end);
        shared
            .log
            .write(Some(self.number), |log| log.closed(self.named()));
    }
}

/// The one place where the limits' clock is read; tests can stop it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// The interface that the zone of a peer's address is. Any socket can be asked.
fn zone(socket: impl AsFd, peer: SocketAddr) -> Option<Box<str>> {
    let SocketAddr::V6(v6) = peer else {
        return None;
    };
    let index = Some(v6.scope_id()).filter(|index| *index != 0)?;
    let name = index_to_name_inlined(socket, index).ok()?;
    Some(name.as_str().into())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        // An IPv6 address may have a zone, which an IpAddr has not.
        IpAddr::V6(_) => address,
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
    }
}

/// Whether an accept failed because that connection is gone already, so that the
/// next one may well succeed.
fn is_of_one_connection(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::PROTO
                | Errno::PERM
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NETUNREACH
                | Errno::OPNOTSUPP
        )
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};

    use rustix::net::netdevice::name_to_index;

    use super::*;

    #[test]
    fn a_zone_is_the_name_of_its_interface() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link_local: Ipv6Addr = "fe80::5".parse().unwrap();
        let peer = |index| SocketAddrV6::new(link_local, 1, 0, index).into();
        let loopback = name_to_index(&socket, "lo").unwrap();
        assert_eq!(zone(&socket, peer(loopback)).as_deref(), Some("lo"));
        assert_eq!(zone(&socket, peer(0)), None);
        // One that is gone.
        assert_eq!(zone(&socket, peer(u32::MAX >> 1)), None);
        assert_eq!(zone(&socket, "192.0.2.1:1".parse().unwrap()), None);
    }
}
