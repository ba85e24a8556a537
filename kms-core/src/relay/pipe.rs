//! Bytes of one direction, from one socket to the other.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

/// Bytes read at a time. They lie on the thread's stack; only what the other side
/// does not take at once is kept.
const READ: usize = 4096;

/// One direction of a session.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// What was read and not taken yet, at most [`READ`] bytes.
    waiting: Vec<u8>,
    sent: usize,
    /// How often what waited was taken to its end.
    taken: u64,
    ended: bool,
    shut: bool,
}

/// What a pipe did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It read, or wrote.
    Some,
    /// It passed on the end; there is no more to do.
    End,
}

/// Which side broke.
#[derive(Debug)]
pub(super) enum Broken {
    Reading,
    Writing,
}

impl Pipe {
    /// With bytes that were read before.
    pub(super) fn with(waiting: Vec<u8>) -> Self {
        Self {
            waiting,
            ..Self::default()
        }
    }

    /// Whether bytes wait for the other side to take them.
    pub(super) fn is_stuck(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Grows whenever what waited was taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether the end was passed on.
    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    /// Passes on what there is, and shows it to `observe` first. While the other side
    /// does not take it, nothing more is read.
    pub(super) fn poll(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        observe: &mut impl FnMut(&[u8]),
        context: &mut Context<'_>,
    ) -> Poll<Result<Moved, Broken>> {
        if self.shut {
            return Poll::Pending;
        }
        if self.is_stuck() {
            return self.poll_send(to, context).map_ok(|()| Moved::Some);
        }
        if !self.ended {
            let mut scratch = [const { MaybeUninit::uninit() }; READ];
            let mut read = ReadBuf::uninit(&mut scratch);
            let polled = Pin::new(from).poll_read(context, &mut read);
            ready!(polled).map_err(|_| Broken::Reading)?;
            let bytes = read.filled();
            if !bytes.is_empty() {
                observe(bytes);
                return Poll::Ready(self.send(bytes, to, context).map(|()| Moved::Some));
            }
            self.ended = true;
        }
        let shut = Pin::new(to).poll_shutdown(context);
        let shut = ready!(shut);
        self.shut = true;
        // It may have gone already: that is an end, too.
        let _: io::Result<()> = shut;
        Poll::Ready(Ok(Moved::End))
    }

    /// Writes as much as is taken at once, and keeps the rest.
    fn send(
        &mut self,
        bytes: &[u8],
        to: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Result<(), Broken> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(context, rest) {
                Poll::Ready(Ok(written @ 1..)) => rest = rest.get(written..).unwrap_or_default(),
                Poll::Ready(_) => return Err(Broken::Writing),
                Poll::Pending => {
                    self.waiting = rest.to_vec();
                    break;
                }
            }
        }
        Ok(())
    }

    fn poll_send(
        &mut self,
        to: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        while let Some(rest) = self
            .waiting
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            match ready!(Pin::new(&mut *to).poll_write(context, rest)) {
                Ok(written @ 1..) => self.sent += written,
                _ => return Poll::Ready(Err(Broken::Writing)),
            }
        }
        self.waiting = Vec::new();
        self.sent = 0;
        self.taken = self.taken.wrapping_add(1);
        Poll::Ready(Ok(()))
    }
}
