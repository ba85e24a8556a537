//! One session: the first PDU, an upstream, and the bytes between.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::pdu::MAX_FRAGMENT;
use crate::responder::{Exchange, Verdict};
use crate::server::{Connection, End, Log, Metrics, Service};
use crate::vlmcsd_log::Relayed;

use super::pipe::{Broken, Moved, Pipe};
use super::upstream::Connected;
use super::{First, Observer, Outcome, RelaySettings, Seen, Sight, Upstreams, first_pdu};

/// What the log gives as the source of an extended PID.
const EPID_SOURCE: &str = "upstream";

/// A relay that serves connections. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Relay(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: RelaySettings,
    upstreams: Upstreams,
    log: Log,
    metrics: Metrics,
}

impl Relay {
    /// A relay that writes to `log` and counts in `metrics`.
    #[must_use]
    pub fn new(settings: RelaySettings, log: Log, metrics: Metrics) -> Self {
        let upstreams =
            Upstreams::new(&settings.upstreams, settings.connect).introduced_by(settings.proxy_to);
        metrics.relay_to(upstreams.clone());
        Self(Arc::new(Shared {
            settings,
            upstreams,
            log,
            metrics,
        }))
    }

    /// Checks the upstreams for ever; to be spawned beside, and dropped with it.
    pub async fn watch_upstreams(self) {
        let every = self.0.settings.health;
        self.0.upstreams.clone().watch(every).await;
    }
}

impl Service for Relay {
    async fn serve(&self, mut connection: Connection) -> End {
        let shared = &self.0;
        let first = {
            let mut stop = connection.stop.clone();
            tokio::select! {
                biased;
                first = shared.first(&mut connection.stream, connection.early) => first,
                () = stop.requested() => Err(End::Stopped),
            }
        };
        let first = match first {
            Ok(first) => first,
            Err(end) => return end,
        };
        let connected = shared.upstreams.connect().await;
        shared.metrics.upstream_connected(connected.is_some());
        let Some(Connected { stream, address }) = connected else {
            return End::Upstream;
        };
        let introduced = shared.settings.proxy_to;
        let header = introduced.map(|version| version.for_client(connection.peer, address));
        let Ok(header) = header.transpose() else {
            return End::Upstream;
        };
        let mut session = Session {
            shared,
            number: connection.number,
            observer: Observer::default(),
            up: Pipe::with([header.unwrap_or_default(), first.clone()].concat()),
            down: Pipe::default(),
        };
        session.observe(|observer, see| observer.client(&first, see));
        session
            .run(connection.stream, stream, connection.stop)
            .await
    }
}

impl Shared {
    /// Everything up to the end of the first PDU, which is a KMS bind.
    async fn first(&self, stream: &mut TcpStream, early: Vec<u8>) -> Result<Vec<u8>, End> {
        let mut received = early;
        let mut deadline = None;
        loop {
            match first_pdu(&received) {
                First::Kms => return Ok(received),
                First::Junk(junk) => {
                    tracing::debug!("cut before it reached an upstream: {junk}");
                    self.metrics.junk();
                    return Err(End::Protocol);
                }
                First::NeedMore { total } => {
                    received.reserve_exact(total.saturating_sub(received.len()));
                }
            }
            let (until, end) = if received.is_empty() {
                (Instant::now() + self.settings.idle, End::Idle)
            } else {
                let pdu = self.settings.pdu;
                let until = *deadline.get_or_insert_with(|| Instant::now() + pdu);
                (until, End::Slow)
            };
            // What follows the PDU may come along, up to a fragment's length.
            let room = usize::from(MAX_FRAGMENT)
                .saturating_sub(received.len())
                .max(1);
            let mut some = stream.take(u64::try_from(room).unwrap_or(1));
            match timeout_at(until, some.read_buf(&mut received)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return Err(End::Peer),
                Err(_) => return Err(end),
            }
        }
    }

    fn see(&self, number: u64, sight: Sight) {
        match sight {
            Sight::Undecoded(why) => self.metrics.undecoded(why),
            Sight::Request(seen) => {
                self.metrics.relayed(&seen);
                self.log.write(Some(number), |log| {
                    let Seen {
                        version,
                        request,
                        outcome,
                    } = *seen;
                    let short = match &outcome {
                        Outcome::Answered(_) => Relayed::Answered,
                        Outcome::Refused(code) | Outcome::Fault(code) => Relayed::Refused(*code),
                    };
                    match (request, outcome) {
                        (Some(request), Outcome::Answered(Some(response))) => log.exchange(
                            &Exchange {
                                version: Some(version),
                                request: Some(request),
                                verdict: Verdict::Answered {
                                    response,
                                    hardware_id: None,
                                },
                            },
                            self.settings.detail,
                            EPID_SOURCE,
                        ),
                        (Some(request), Outcome::Refused(code) | Outcome::Fault(code)) => {
                            log.refused_upstream(&request, self.settings.detail, code);
                        }
                        _ => log.relayed(version, short),
                    }
                });
            }
        }
    }
}

/// A client and an upstream, and what is known of what they say.
struct Session<'a> {
    shared: &'a Shared,
    number: u64,
    observer: Observer,
    /// From the client to the upstream.
    up: Pipe,
    /// And back.
    down: Pipe,
}

impl Session<'_> {
    async fn run(
        &mut self,
        mut client: TcpStream,
        mut upstream: TcpStream,
        mut stop: crate::server::Stop,
    ) -> End {
        let (idle, pdu) = (self.shared.settings.idle, self.shared.settings.pdu);
        let mut stopped = pin!(stop.requested());
        let mut stopping = false;
        // Since when nothing moved, and since when the client or its bytes are slow.
        let mut quiet = Instant::now();
        let mut slow: Option<Instant> = None;
        let mut progress = self.progress();
        let mut alarm = pin!(sleep_until(quiet + idle));
        loop {
            self.shared.log.room().await;
            tokio::select! {
                biased;
                moved = std::future::poll_fn(|context| {
                    self.poll(&mut client, &mut upstream, context)
                }) => {
                    if let Err(end) = moved {
                        return end;
                    }
                    quiet = Instant::now();
                }
                () = &mut stopped, if !stopping => stopping = true,
                () = &mut alarm => {}
            }
            if self.up.is_shut() && self.down.is_shut() {
                return End::Peer;
            }
            let busy = self.up.is_stuck() || self.down.is_stuck() || self.observer.in_the_middle();
            if stopping && !busy && !self.observer.is_waiting() {
                return End::Stopped;
            }
            let before = std::mem::replace(&mut progress, self.progress());
            slow = slow.filter(|_| busy && before == progress);
            if busy {
                slow.get_or_insert_with(Instant::now);
            }
            let until_slow = slow.map(|since| since + pdu);
            let until_idle = quiet + idle;
            let due = until_slow.map_or(until_idle, |slow| slow.min(until_idle));
            let now = Instant::now();
            if until_slow.is_some_and(|slow| slow <= now) {
                return End::Slow;
            }
            if until_idle <= now {
                return End::Idle;
            }
            // Moved only when it went off, or has to go off earlier.
            if alarm.is_elapsed() || due < alarm.deadline() {
                alarm.as_mut().reset(due);
            }
        }
    }

    /// Changes with each PDU that is whole and all bytes that are taken.
    fn progress(&self) -> (u64, u64, u64) {
        let pdus = self.observer.client_pdus();
        (pdus, self.up.taken(), self.down.taken())
    }

    /// Moves what can be moved, in both directions.
    fn poll(
        &mut self,
        client: &mut TcpStream,
        upstream: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), End>> {
        let (shared, number) = (self.shared, self.number);
        let observer = &mut self.observer;
        let mut see = |sight| shared.see(number, sight);
        let mut watch = |bytes: &[u8]| observer.client(bytes, &mut see);
        let up = self.up.poll(client, upstream, &mut watch, context);
        let mut watch = |bytes: &[u8]| observer.upstream(bytes, &mut see);
        let down = self.down.poll(upstream, client, &mut watch, context);
        for (moved, reading, writing) in [
            (&up, End::Peer, End::Upstream),
            (&down, End::Upstream, End::Peer),
        ] {
            match moved {
                Poll::Ready(Err(Broken::Reading)) => return Poll::Ready(Err(reading)),
                Poll::Ready(Err(Broken::Writing)) => return Poll::Ready(Err(writing)),
                Poll::Ready(Ok(Moved::Some | Moved::End)) | Poll::Pending => {}
            }
        }
        if up.is_pending() && down.is_pending() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn observe(&mut self, look: impl FnOnce(&mut Observer, &mut dyn FnMut(Sight))) {
        let (shared, number) = (self.shared, self.number);
        look(&mut self.observer, &mut |sight| shared.see(number, sight));
    }
}
