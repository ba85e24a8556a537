//! Who is there: connections come and go, servers start and end.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::belief::Why;
use super::connections::{Connection, LIFE, Peer, is_public};
use super::{Assembler, At, Event, EventKind};
use crate::line::{Endpoint, Kind};

/// How much of the log's past is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Past {
    /// Nothing was read yet but the server's own start.
    #[default]
    Untouched,
    /// The log was joined while connections may have been open that it does not
    /// show; since when, if lines have stamps.
    Late(Option<Timestamp>),
    /// The server said that it ended; nobody is left once it starts again.
    Ended,
    /// Every open connection is in the table.
    Known,
}

impl Past {
    /// Learns from a line of the server.
    pub(super) fn note(&mut self, kind: &Kind<'_>, now: Option<Timestamp>) {
        *self = match (*self, kind) {
            (Self::Untouched | Self::Ended, Kind::Started) => Self::Known,
            (Self::Untouched | Self::Late(_), Kind::Stopped) => Self::Ended,
            (
                Self::Untouched,
                Kind::Lifecycle | Kind::Warning | Kind::Limited | Kind::Unrecognised,
            ) => Self::Untouched,
            (Self::Untouched, _) => Self::Late(now),
            (past, _) => past,
        };
    }

    /// Somebody was there whose accepted line is not in the log, and others may be.
    pub(super) fn missed(&mut self, now: Option<Timestamp>) {
        if let Self::Late(_) | Self::Known = self {
            *self = Self::Late(now);
        }
    }

    /// A request is nobody's who was seen to connect: in a log that was joined late,
    /// of one who was there before.
    pub(super) fn asked_by_nobody(&mut self, now: Option<Timestamp>) {
        if let Self::Late(_) = self {
            *self = Self::Late(now);
        }
    }

    /// Whoever was there when the log was joined is gone, or known by now.
    pub(super) fn age(&mut self, now: Timestamp) {
        match *self {
            Self::Late(Some(since)) if now.duration_since(since) > LIFE => *self = Self::Known,
            Self::Late(None) => *self = Self::Late(Some(now)),
            _ => {}
        }
    }
}

/// What syslog's PIDs tell.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Processes {
    /// The one that said that the server started.
    pub(super) server: Option<u32>,
    last_accepted: Option<u32>,
    /// One process serves one connection: two were accepted by different
    /// processes, or one by another than the server's own.
    pub(super) fork: bool,
}

impl Processes {
    fn accepted(&mut self, pid: u32) {
        let other = |known: Option<u32>| known.is_some_and(|known| known != pid);
        self.fork |= other(self.last_accepted) || other(self.server);
        self.last_accepted = Some(pid);
    }
}

impl Assembler {
    pub(super) fn accepted(&mut self, peer: Peer<'_>, at: &mut At<'_>, pid: Option<u32>) {
        self.tick += 1;
        if let Some(pid) = pid {
            self.processes.accepted(pid);
        }
        let seen = at.seen();
        self.connections.open(self.tick, peer, seen);
    }

    pub(super) fn closed(&mut self, peer: &Endpoint<'_>, out: &mut Vec<Event>) {
        self.tick += 1;
        let mut id = self.connections.find(peer);
        if id.is_none()
            && let Some(seen) = self.connections.confirm(peer)
        {
            // Its accepted line looked forged; nobody can forge this one.
            self.connections.open(self.tick, peer.into(), seen);
            id = Some(self.tick);
        }
        let Some(id) = id else {
            self.past.missed(self.now);
            return;
        };
        self.concerns(|this| {
            this.connections
                .get(id)
                .map(|connection| connection.seen.id)
        });
        self.connections.close(id, self.tick);
        self.closing(id, out);
        if self.connections.get(id).is_some_and(Connection::is_claimed) {
            self.settle(Why::Closed(id), out);
        }
        self.abort_orphans(out);
    }

    /// `-o2` turned a public address away: each as it comes, so the one that has waited
    /// longest.
    pub(super) fn rejected(&mut self, pid: Option<u32>, out: &mut Vec<Event>) {
        let fits =
            |c: &&Connection| c.is_fresh() && c.ip.is_none_or(is_public) && c.seen.is_by(pid);
        let Some(id) = self.connections.oldest().find(fits).map(|c| c.accepted) else {
            return;
        };
        let Some(connection) = self.connections.turned_away(id) else {
            return;
        };
        let (subject, rpc) = (connection.seen.id, connection.rpc);
        self.concerns(|_| Some(subject));
        if let Some(connection) = self.connections.get(id) {
            out.push(self.connection_event(connection, EventKind::Dropped));
        }
        if rpc {
            self.connections.forget(id);
        }
    }

    pub(super) fn server_changed(&mut self, stopped: bool, at: &mut At<'_>, out: &mut Vec<Event>) {
        self.abort_all(out);
        self.settle(Why::End, out);
        let seen = at.seen();
        self.connections.server_changed();
        self.processes = Processes {
            server: seen.pid,
            ..Processes::default()
        };
        let kind = if stopped {
            EventKind::ServerStopped
        } else {
            EventKind::ServerStarted
        };
        out.push(self.event(&seen, kind));
    }
}
