//! The lab responder behind a [`Front`](super::Front): one connection's bytes, in
//! and out.
//!
//! An idle connection holds no buffer to speak of. Bytes are read into the
//! thread's stack, and only a PDU that is not whole yet, or an answer that the
//! peer does not take, is kept.

use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::responder::{Action, Association, AssociationSettings, Env, Host, Outcome, Step};
use crate::vlmcsd_log::Detail;

use super::random::Random;
use super::{Connection, End, Log, Metrics, Service};

/// Bytes read at a time. A request has at most 300.
const READ: usize = 4096;
/// An idle connection's answer buffer is at most this long.
const KEPT: usize = 512;
/// How long a peer that was told to go gets to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Longest [`ResponderSettings::idle`] and [`ResponderSettings::pdu`]: 30 days. No
/// clock overflows at a moment that far away.
pub const MAX_PATIENCE: Duration = Duration::from_secs(30 * 86_400);
/// How many bytes are read, and thrown away, meanwhile.
const LINGER_BYTES: u64 = 64 * 1024;

/// What a responder does beyond what its host's policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponderSettings {
    /// How long a connection may ask nothing (vlmcsd's `-t`); what is longer than
    /// [`MAX_PATIENCE`] is that.
    pub idle: Duration,
    /// How long a call may take from its first byte to its last, and an answer to
    /// be taken; with the same bound.
    pub pdu: Duration,
    /// How much the log says of a request.
    pub detail: Detail,
    /// What the log gives as the source of the extended PID.
    pub epid_source: String,
    /// Whether NDR64 is spoken beside NDR32.
    pub ndr64: bool,
    /// Whether bind time features are negotiated.
    pub btfn: bool,
}

impl Default for ResponderSettings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30),
            pdu: Duration::from_secs(10),
            detail: Detail::Quiet,
            epid_source: "vlmcsd default".to_owned(),
            ndr64: true,
            btfn: true,
        }
    }
}

/// A lab KMS host that answers connections. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Responder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host: Host,
    settings: ResponderSettings,
    log: Log,
    metrics: Metrics,
    next_group: AtomicU32,
    /// Of IVs.
    random: Random,
}

impl Responder {
    /// A responder for this host, which writes to `log` and counts in `metrics`.
    #[must_use]
    pub fn new(host: Host, settings: ResponderSettings, log: Log, metrics: Metrics) -> Self {
        let mut start = [0; 4];
        fill_random(&mut start);
        Self(Arc::new(Shared {
            host,
            settings,
            log,
            metrics,
            next_group: AtomicU32::new(u32::from_ne_bytes(start)),
            random: Random::new(),
        }))
    }

    fn association(&self, port: u16) -> Association {
        let group = self.0.next_group.fetch_add(1, Ordering::Relaxed);
        Association::new(AssociationSettings {
            group_id: NonZeroU32::new(group).unwrap_or(NonZeroU32::MIN),
            port,
            ndr64: self.0.settings.ndr64,
            btfn: self.0.settings.btfn,
        })
    }
}

/// Fills a slice from the operating system's source.
///
/// # Panics
/// If the system has none, which a system that runs this has.
pub fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system gives random bytes");
}

impl Service for Responder {
    async fn serve(&self, connection: Connection) -> End {
        let Connection {
            mut stream,
            early,
            port,
            number,
            mut stop,
            ..
        } = connection;
        let mut session = Session {
            responder: &self.0,
            association: self.association(port),
            number,
            received: early,
            fresh: true,
            reply: Vec::new(),
            sent: 0,
            closing: false,
        };
        let settings = &self.0.settings;
        let [idle, pdu] = [settings.idle, settings.pdu].map(|time| time.min(MAX_PATIENCE));
        let mut stopped = pin!(stop.requested());
        let mut stopping = false;
        // Since when it is as it is: idle, or busy with one call or answer.
        let mut since = Instant::now();
        // Moved only when it goes off, or has to go off earlier.
        let mut alarm = pin!(sleep_until(since + idle));
        loop {
            self.0.log.room().await;
            let was_busy = session.is_busy();
            tokio::select! {
                biased;
                turn = std::future::poll_fn(|context| session.poll(&mut stream, context)) => {
                    let progress = match turn {
                        Turn::Progress { whole } => whole,
                        Turn::Linger => {
                            linger(stream).await;
                            return End::Protocol;
                        }
                        Turn::Over(end) => return end,
                    };
                    // A call that goes on was begun when it was begun.
                    if progress || !was_busy {
                        since = Instant::now();
                    }
                }
                () = &mut stopped, if !stopping => stopping = true,
                () = &mut alarm => {}
            }
            if stopping && !session.is_busy() {
                return End::Stopped;
            }
            let (patience, end) = if session.is_busy() {
                (pdu, End::Slow)
            } else {
                (idle, End::Idle)
            };
            let due = since + patience;
            if alarm.is_elapsed() {
                if due <= Instant::now() {
                    return end;
                }
                alarm.as_mut().reset(due);
            } else if due < alarm.deadline() {
                alarm.as_mut().reset(due);
            }
        }
    }
}

/// What a turn led to.
enum Turn {
    /// Something was read or written.
    Progress {
        /// A call was dealt with, or an answer taken, to its end.
        whole: bool,
    },
    /// The answer is sent, and was the last one.
    Linger,
    /// There is no more to do.
    Over(End),
}

/// One connection's state.
struct Session<'a> {
    responder: &'a Shared,
    association: Association,
    number: u64,
    /// The beginning of a PDU.
    received: Vec<u8>,
    /// `received` was not looked at yet.
    fresh: bool,
    reply: Vec<u8>,
    /// How much of `reply` is sent.
    sent: usize,
    /// Nothing is read any more.
    closing: bool,
}

impl Session<'_> {
    /// Something is begun and not finished.
    fn is_busy(&self) -> bool {
        self.association.holds_fragments() || !self.received.is_empty() || !self.reply.is_empty()
    }

    /// One turn: sends what waits, else reads once and answers it. While the peer
    /// does not take its answers nothing more is read.
    fn poll(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<Turn> {
        if !self.reply.is_empty() {
            return Poll::Ready(match ready!(self.poll_send(stream, context)) {
                Ok(()) if self.closing => Turn::Linger,
                Ok(()) => Turn::Progress { whole: true },
                Err(()) => Turn::Over(End::Peer),
            });
        }
        let mut scratch = [const { MaybeUninit::uninit() }; READ];
        let mut read = ReadBuf::uninit(&mut scratch);
        if std::mem::take(&mut self.fresh) && !self.received.is_empty() {
            // Read behind the PROXY header.
        } else {
            match ready!(Pin::new(&mut *stream).poll_read(context, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {}
                // A reset is a client's way to hang up.
                Ok(()) | Err(_) => return Poll::Ready(Turn::Over(End::Peer)),
            }
        }
        let whole = self.handle_bytes(read.filled());
        if self.reply.is_empty() {
            return Poll::Ready(if self.closing {
                Turn::Over(End::Protocol)
            } else {
                Turn::Progress { whole }
            });
        }
        Poll::Ready(match self.poll_send(stream, context) {
            Poll::Ready(Ok(())) if self.closing => Turn::Linger,
            Poll::Ready(Ok(())) | Poll::Pending => Turn::Progress { whole },
            Poll::Ready(Err(())) => Turn::Over(End::Peer),
        })
    }

    /// Deals with all whole PDUs; keeps the beginning of another. Whether there was
    /// one.
    fn handle_bytes(&mut self, bytes: &[u8]) -> bool {
        if self.received.is_empty() {
            let (consumed, whole) = self.handle_pdus(bytes);
            let rest = bytes.get(consumed..).unwrap_or_default();
            if !rest.is_empty() && !self.closing {
                self.received = rest.to_vec();
            }
            return whole;
        }
        let mut received = std::mem::take(&mut self.received);
        received.extend_from_slice(bytes);
        let (consumed, whole) = self.handle_pdus(&received);
        if consumed < received.len() && !self.closing {
            received.drain(..consumed);
            self.received = received;
        }
        whole
    }

    fn handle_pdus(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut consumed = 0;
        let mut whole = false;
        while let Some(rest) = bytes.get(consumed..).filter(|rest| !rest.is_empty()) {
            let env = Env {
                host: &self.responder.host,
                now: now(),
                random: &mut |bytes| self.responder.random.fill(bytes),
            };
            let outcome = match self.association.handle(rest, env, &mut self.reply) {
                Step::NeedMore { .. } => break,
                Step::Done(outcome) => outcome,
            };
            self.note(&outcome);
            consumed += outcome.consumed;
            whole |= !self.association.holds_fragments();
            match outcome.action {
                Action::Send | Action::Continue => {}
                Action::SendAndClose | Action::Close => {
                    self.closing = true;
                    break;
                }
            }
        }
        (consumed, whole)
    }

    fn note(&self, outcome: &Outcome) {
        let shared = self.responder;
        shared.metrics.pdu(&outcome.reason);
        if let Some(exchange) = &outcome.exchange {
            let settings = &shared.settings;
            shared.log.write(Some(self.number), |log| {
                log.exchange(exchange, settings.detail, &settings.epid_source);
            });
        }
    }

    /// Sends what is left of the reply; then the buffer is empty, and small.
    fn poll_send(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), ()>> {
        while let Some(rest) = self.reply.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *stream).poll_write(context, rest)) {
                Ok(written) if written > 0 => self.sent += written,
                Ok(_) | Err(_) => return Poll::Ready(Err(())),
            }
        }
        self.sent = 0;
        self.reply.clear();
        if self.reply.capacity() > KEPT {
            self.reply = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// Says that no more will come, and waits until the peer has closed too: closing
/// with bytes unread would reset the connection and lose the answer on its way.
async fn linger(mut stream: TcpStream) {
    // The peer may be gone, which is what is waited for.
    let _ = timeout(LINGER, async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    })
    .await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "a client's clock is held against this one"
)]
fn now() -> Timestamp {
    Timestamp::now()
}
