//! An association over a stream, each wait within a time-out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::pdu::{Frame, HEADER_LEN, PacketType, frame};
use crate::stub::{Encoding, Reply};

use super::{Association, Bound, ClientError, Event, Offer, Step};

/// Room for an answer, so that one read takes it whole: a read that leaves room
/// also tells tokio that there is nothing more, which saves the next one.
const ROOM: usize = 1024;

/// Room for the longest call of KMS, so that its buffer does not grow bit by bit.
const CALL: usize = 320;

/// What a connection was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// TCP's handshake.
    Connect,
    /// bind, or alter_context.
    Bind,
    /// A call.
    Call,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The system says so.
    #[error("{phase}: {error}")]
    Io {
        /// What was being done.
        phase: Phase,
        /// What it said.
        error: io::Error,
    },
    /// Nothing came in time.
    #[error("{phase}: nothing within {after:?}")]
    Timeout {
        /// What was being done.
        phase: Phase,
        /// How long it was waited for.
        after: Duration,
    },
    /// The host closed the connection.
    #[error("{phase}: the host closed the connection after {received} bytes")]
    Closed {
        /// What was being done.
        phase: Phase,
        /// Bytes of the answer until then.
        received: usize,
    },
    /// The host answered, and not as a KMS host does.
    #[error(transparent)]
    Protocol(#[from] ClientError),
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Bind => "binding",
            Self::Call => "waiting for the answer",
        })
    }
}

/// Connects, from this local address if one is given.
///
/// # Errors
/// [`CallError::Io`] and [`CallError::Timeout`].
pub async fn connect(
    to: SocketAddr,
    from: Option<IpAddr>,
    within: Duration,
) -> Result<TcpStream, CallError> {
    let phase = Phase::Connect;
    let failed = |error| CallError::Io { phase, error };
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .map_err(failed)?;
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0)).map_err(failed)?;
    }
    let stream = match timeout(within, socket.connect(to)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => {
            return Err(CallError::Timeout {
                phase,
                after: within,
            });
        }
    };
    // A call is one small write, and its answer is waited for.
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// A connection to a host: bind, then call as often as wanted.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    association: Association,
    within: Duration,
    received: Vec<u8>,
    /// Bytes of `received` that the last answer took.
    consumed: usize,
    out: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Over this stream; every answer must come `within` this time.
    pub fn new(stream: S, within: Duration) -> Self {
        Self {
            stream,
            association: Association::new(),
            within,
            received: Vec::new(),
            consumed: 0,
            out: Vec::with_capacity(CALL),
        }
    }

    /// What has been bound so far.
    pub fn association(&self) -> &Association {
        &self.association
    }

    /// Binds.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn bind(&mut self, offer: Offer) -> Result<Bound, CallError> {
        self.out.clear();
        self.association.bind(offer, &mut self.out);
        self.exchange_bind().await
    }

    /// Offers one more encoding on a bound connection.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn alter(&mut self, encoding: Encoding) -> Result<Bound, CallError> {
        self.out.clear();
        self.association.alter(encoding, &mut self.out);
        self.exchange_bind().await
    }

    /// Sends a KMS message and waits for the answer, which lies in this
    /// connection's buffer until the next call.
    ///
    /// # Errors
    /// [`CallError`]; after a fault the connection may be used further.
    pub async fn call(
        &mut self,
        encoding: Encoding,
        message: &[u8],
    ) -> Result<Reply<'_>, CallError> {
        self.out.clear();
        self.association.request(encoding, message, &mut self.out)?;
        match self.exchange(Phase::Call).await? {
            Event::Reply(reply) => Ok(reply),
            Event::Bound(_) => Err(ClientError::Unexpected(PacketType::BindAck).into()),
        }
    }

    /// Waits until the host closes the connection or sends what nobody asked for.
    pub async fn closed(&mut self) {
        let mut byte = [0];
        // What it says matters to nobody: the connection is at its end.
        let _ = self.stream.read(&mut byte).await;
    }

    /// What was received of the last answer, whole or not: after an error, what
    /// there was instead of one.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    async fn exchange_bind(&mut self) -> Result<Bound, CallError> {
        match self.exchange(Phase::Bind).await? {
            Event::Bound(bound) => Ok(bound),
            Event::Reply(_) => Err(ClientError::Unexpected(PacketType::Response).into()),
        }
    }

    /// Sends what is in `out` and understands the next PDU.
    async fn exchange(&mut self, phase: Phase) -> Result<Event<'_>, CallError> {
        let within = self.within;
        let read = timeout(within, self.send_and_read(phase)).await;
        read.map_err(|_| CallError::Timeout {
            phase,
            after: within,
        })??;
        match self.association.handle(&self.received)? {
            Step::Done { event, .. } => Ok(event),
            // `send_and_read` waits for the same end as `handle` looks for.
            Step::NeedMore { .. } => Err(CallError::Closed {
                phase,
                received: self.received.len(),
            }),
        }
    }

    /// Until a PDU is whole, or is seen to be none.
    async fn send_and_read(&mut self, phase: Phase) -> Result<(), CallError> {
        let failed = |error| CallError::Io { phase, error };
        self.stream.write_all(&self.out).await.map_err(failed)?;
        self.received.drain(..self.consumed);
        self.consumed = 0;
        loop {
            match frame(&self.received) {
                Ok(Frame::NeedMore { total }) => {
                    let missing = total.saturating_sub(self.received.len());
                    self.received.reserve(missing.max(ROOM));
                }
                Ok(Frame::Whole { body, .. }) => {
                    self.consumed = HEADER_LEN + body.len();
                    return Ok(());
                }
                // The association says what it is.
                Err(_) => return Ok(()),
            }
            let read = self.stream.read_buf(&mut self.received).await;
            if read.map_err(failed)? == 0 {
                return Err(CallError::Closed {
                    phase,
                    received: self.received.len(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
