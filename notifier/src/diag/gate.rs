//! How many connections a peer may hold.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use kms_core::limits::{self, Decision, Limiter, Limits};

/// Connections that one peer (an IPv4 address, an IPv6 /64) holds at a time; the
/// next one is closed at once, so that one machine cannot take all places.
/// Listed proxies are not limited: they speak for many.
pub const MAX_CONNECTIONS: u32 = 32;

/// Counts open connections by peer.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Mutex<Limiter>>);

/// A connection that was let in; it counts until this is dropped.
#[derive(Debug)]
pub struct Admission {
    gate: Gate,
    // `None` only while it is dropped.
    inner: Option<limits::Admission>,
}

impl Gate {
    /// A gate that nobody came through yet; these proxies are not limited.
    #[must_use]
    pub fn new(proxies: Vec<IpNet>) -> Self {
        let limits = Limits {
            max_connections: Some(MAX_CONNECTIONS),
            // As soon as one of its connections is over the peer may come again.
            overload_ttl: Duration::from_millis(1),
            drop_existing: false,
            allow: proxies,
            max_sources: super::allowance::MAX_SOURCES,
            ..Limits::default()
        };
        let limiter = Limiter::new(limits).expect("constants that are within the bounds");
        Self(Arc::new(Mutex::new(limiter)))
    }

    /// Lets a connection in, unless its peer has too many.
    pub fn admit(&self, peer: IpAddr, now: Instant) -> Option<Admission> {
        let mut limiter = self.lock();
        // Sources with a report due are not forgotten.
        while let Some(report) = limiter.poll_report(now) {
            tracing::debug!(source = %report.source, connections = report.count, "too many connections");
        }
        match limiter.handle_open(peer, now) {
            Decision::Admit(admission) => Some(Admission {
                gate: self.clone(),
                inner: Some(admission),
            }),
            Decision::Refuse(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Limiter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(admission) = self.inner.take() {
            self.gate.lock().handle_close(admission);
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's time has to begin somewhere"
)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_holds_so_many_and_a_closed_one_makes_room() {
        let (gate, start) = (Gate::new(Vec::new()), Instant::now());
        let admit = |peer: &str, now| gate.admit(peer.parse().unwrap(), now);
        let mut held: Vec<_> = (0..MAX_CONNECTIONS)
            .map(|_| admit("192.0.2.1", start).unwrap())
            .collect();
        assert!(admit("192.0.2.1", start).is_none());
        assert!(
            admit("::ffff:192.0.2.1", start).is_none(),
            "the same address"
        );
        assert!(admit("192.0.2.2", start).is_some(), "another has its own");
        held.pop();
        let soon = start + Duration::from_millis(2);
        held.push(admit("192.0.2.1", soon).unwrap());
        assert!(admit("192.0.2.1", soon).is_none());
    }

    #[test]
    fn a_listed_proxy_holds_as_many_as_it_needs() {
        let (gate, start) = (
            Gate::new(vec!["10.0.0.0/8".parse().unwrap()]),
            Instant::now(),
        );
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let held: Vec<_> = (0..2 * MAX_CONNECTIONS)
            .map_while(|_| gate.admit(proxy, start))
            .collect();
        assert_eq!(held.len(), 2 * MAX_CONNECTIONS as usize);
    }
}
