//! From lines to events: who connected, who asked for what, what became of it.
//!
//! Pure: it reads no clock and no file. [`Assembler::handle_line`] takes a line,
//! [`Assembler::handle_idle`] says that none came for a while,
//! [`Assembler::finish`] that none will come; finished events are appended to
//! the caller's list. Everything it keeps is bounded, and what it gives up is
//! counted in [`Counters`].

mod attribution;
mod blocks;
mod clock;
mod connections;
mod names;
mod waiting;

use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kms_core::text::clean;
use uuid::Uuid;

use crate::event::{
    self, Event, EventId, EventTime, IdMaker, Kind as EventKind, Request, TimeSource,
};
use crate::line::{self, Class, Endpoint, Kind, Label, Line, Mark};

use blocks::{Block, Blocks, Stage, Taken, Trust};
use clock::Clock;
use connections::{Connections, Machine, Peer, Tick, is_public};
use names::Window;
use waiting::{Asked, Waiting};

/// A request block that got no answer for so long is given up.
const UNANSWERED: SignedDuration = SignedDuration::from_secs(60);

/// Characters kept of a client's name: 65 units, and line feeds that were added.
const MAX_WORKSTATION: usize = 130;

/// One line of a log and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What the server printed, without the container runtime's or syslog's wrapper.
    pub text: &'a [u8],
    /// The line as it stands in the file.
    pub raw: &'a [u8],
    /// Offset in bytes of `raw` in its file.
    pub offset: u64,
    /// The ids of that file.
    pub ids: &'a IdMaker,
    /// The container runtime's or RFC 5424's stamp.
    pub stamp: Option<EventTime>,
    /// A syslog stamp (any year), and the file's mtime.
    pub yearless: Option<(DateTime, Timestamp)>,
    /// The process that wrote the line, in syslog form.
    pub pid: Option<u32>,
    /// Whether the line lacks the wrapper that its log's lines have.
    pub unwrapped: bool,
    /// When it was read; `None` in a replay.
    pub read_at: Option<Timestamp>,
}

/// Where and when something was seen: what an event keeps of its first line.
#[derive(Clone, Copy, Debug)]
struct Seen {
    id: EventId,
    time: Option<EventTime>,
    time_source: TimeSource,
    pid: Option<u32>,
}

/// What was counted since the last [`Assembler::take_counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lines by class, in the order of [`Class::ALL`].
    pub lines: [u64; Class::ALL.len()],
    /// Lines that a client may have forged.
    pub suspect: u64,
    /// Open connections that the table had to forget.
    pub evicted_connections: u64,
    /// Unfinished blocks that had to be given up.
    pub evicted_blocks: u64,
    /// Waiting requests that were decided before their time.
    pub evicted_requests: u64,
}

impl Counters {
    fn count(&mut self, class: Class) {
        if let Some(lines) = self.lines.get_mut(class as usize) {
            *lines += 1;
        }
        self.suspect += u64::from(class == Class::Suspect);
    }
}

/// What one line was taken for, when [`Assembler::trace`] was asked to tell.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// The id that an event beginning with this line has.
    pub line: EventId,
    /// What the line counted as.
    pub class: Class,
    /// The request or connection it belongs to.
    pub subject: Option<EventId>,
}

/// How much of the log's past is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// Nothing was read yet but the server's own start.
    Untouched,
    /// The log was joined while connections may have been open that it does not
    /// show; since when, if lines have stamps.
    Late(Option<Timestamp>),
    /// Every open connection is in the table.
    Known,
}

/// Turns the lines of one log into events.
#[derive(Debug)]
pub struct Assembler {
    log: Arc<str>,
    clock: Clock,
    /// The latest moment a line was stamped with.
    now: Option<Timestamp>,
    /// Whether the server's lines have its date prefix.
    dated: Option<bool>,
    tick: Tick,
    line: u64,
    past: Past,
    stopped: bool,
    connections: Connections,
    blocks: Blocks,
    window: Option<Window>,
    waiting: Waiting,
    /// Processes of the server: its own, and whether one process serves one
    /// connection (fork builds).
    processes: Processes,
    counters: Counters,
    traces: Option<Traces>,
}

/// Kept only while lines are explained.
#[derive(Debug, Default)]
struct Traces {
    told: Vec<Trace>,
    subject: Option<EventId>,
}

/// What syslog's PIDs tell.
#[derive(Debug, Default)]
struct Processes {
    server: Option<u32>,
    last_accepted: Option<u32>,
    /// Two connections were accepted by different processes of one server.
    fork: bool,
}

impl Assembler {
    /// For the log called `log`, of a server that stamps lines in `zone`.
    #[must_use]
    pub fn new(log: Arc<str>, zone: TimeZone) -> Self {
        Self {
            log,
            clock: Clock::new(zone),
            now: None,
            dated: None,
            tick: 0,
            line: 0,
            past: Past::Untouched,
            stopped: false,
            connections: Connections::default(),
            blocks: Blocks::default(),
            window: None,
            waiting: Waiting::default(),
            processes: Processes::default(),
            counters: Counters::default(),
            traces: None,
        }
    }

    /// Keeps what every line from here on is taken for.
    pub fn trace(&mut self) {
        self.traces = Some(Traces::default());
    }

    /// What the lines since the last call were taken for, in the order that was
    /// known; nothing unless [`Self::trace`] was called.
    pub fn take_traces(&mut self) -> Vec<Trace> {
        self.traces
            .as_mut()
            .map(|traces| std::mem::take(&mut traces.told))
            .unwrap_or_default()
    }

    /// Counts a line, and tells of it if that was asked for.
    fn count(&mut self, class: Class, line: impl FnOnce() -> EventId) {
        self.counters.count(class);
        if let Some(traces) = &mut self.traces {
            let subject = traces.subject.take();
            traces.told.push(Trace {
                line: line(),
                class,
                subject,
            });
        }
    }

    /// Notes which request or connection the line belongs to that is handled.
    fn concerns(&mut self, subject: impl FnOnce(&Self) -> Option<EventId>) {
        if self.traces.is_some() {
            let subject = subject(self);
            if let Some(traces) = &mut self.traces {
                traces.subject = subject;
            }
        }
    }

    /// Takes the next line and appends the events that it decides.
    pub fn handle_line(&mut self, input: &Input<'_>, out: &mut Vec<Event>) {
        self.line += 1;
        let line = line::classify(input.text);
        if let Some(window) = &mut self.window {
            let foreign = input.unwrapped
                || self
                    .dated
                    .is_some_and(|dated| dated != line.stamp.is_some());
            let clock = &mut self.clock;
            let seen = || seen(clock, &line, input);
            if window.park(input.text, input.raw, &line.kind, foreign, seen, input.pid) {
                return;
            }
            self.resolve_window(Some(&line), out);
        }
        if input.unwrapped {
            // Not the server's, or not to be told from what a client sent.
            self.count(Class::Unrecognised, || {
                input.ids.id(input.offset, input.raw)
            });
            return;
        }
        let time = time(&mut self.clock, &line, input);
        self.advance(time.0.map(|time| time.at), out);
        let mut at = At {
            input: Some(input),
            time,
            seen: None,
        };
        let class = self.apply(&line, &mut at, input.pid, Trust::Real, out);
        self.count(class, || at.seen().id);
    }

    /// No line came for a while (3 s while following): what waits for more is decided.
    pub fn handle_idle(&mut self, out: &mut Vec<Event>) {
        self.resolve_window(None, out);
        self.settle(true, out);
    }

    /// The log ends here. `server_ended` says that the server did too, so that
    /// nothing that was begun will be answered.
    pub fn finish(&mut self, server_ended: bool, out: &mut Vec<Event>) {
        self.resolve_window(None, out);
        if server_ended {
            self.abort_all(out);
        }
        self.settle(true, out);
    }

    /// What was counted since the last call.
    pub fn take_counters(&mut self) -> Counters {
        let mut counters = std::mem::take(&mut self.counters);
        counters.evicted_connections = std::mem::take(&mut self.connections.evicted);
        counters.evicted_blocks = std::mem::take(&mut self.blocks.evicted);
        counters.evicted_requests = std::mem::take(&mut self.waiting.evicted);
        counters
    }

    /// Whether something waits that [`Self::handle_idle`] would decide.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.window.is_some() || !self.waiting.is_empty()
    }

    /// Time goes on: what waited long enough is decided.
    fn advance(&mut self, now: Option<Timestamp>, out: &mut Vec<Event>) {
        let later = now.is_some_and(|now| self.now.is_none_or(|before| now > before));
        if later {
            self.now = now;
        }
        if self.waiting.is_due(self.now, self.line) {
            self.settle(false, out);
        }
        if let (true, Some(now)) = (later, self.now) {
            self.age(now, out);
        }
    }

    fn age(&mut self, now: Timestamp, out: &mut Vec<Event>) {
        let old = |block: &&Block| {
            block
                .seen
                .time
                .is_some_and(|time| now.duration_since(time.at) > UNANSWERED)
        };
        let old: Vec<Tick> = self
            .blocks
            .iter()
            .filter(old)
            .map(|block| block.begin)
            .collect();
        for begin in old {
            self.abort(begin, out);
        }
        if let Past::Late(Some(since)) = self.past
            && now.duration_since(since) > connections::LIFE
        {
            self.past = Past::Known;
        }
        for connection in self.connections.age(now) {
            // Only a line that may be forged ever closed it; nothing else came.
            if connection.suspect_close && connection.is_fresh() {
                let mut event = self.connection_event(&connection, EventKind::Probe);
                event.suspect = true;
                out.push(event);
            }
        }
    }

    /// Does what a line says. Returns what it counts as.
    fn apply(
        &mut self,
        line: &Line<'_>,
        at: &mut At<'_>,
        pid: Option<u32>,
        trust: Trust,
        out: &mut Vec<Event>,
    ) -> Class {
        let suspect = trust != Trust::Real;
        let class = if suspect {
            Class::Suspect
        } else {
            line.kind.class()
        };
        if suspect {
            self.apply_suspect(line, at, pid, trust, out);
            return class;
        }
        self.note_past(line);
        match line.kind {
            Kind::Field(label, value) => {
                let taken = self.blocks.field(label, value, pid, trust);
                if let Taken::Line(begin) | Taken::Answered(begin) = taken {
                    self.concerns_block(begin);
                }
                match taken {
                    Taken::Line(begin) if label == Label::Workstation => {
                        self.window = Window::verbose(begin, pid, value);
                    }
                    Taken::Orphan | Taken::Line(_) => {}
                    Taken::Answered(begin) => self.answered(begin, out),
                }
                return class;
            }
            Kind::RequestMarker(mark) => self.begin(mark, at, pid, false, out),
            Kind::ResponseMarker(mark) => {
                if let Some(begin) = self.blocks.waiting(pid, mark) {
                    self.concerns_block(begin);
                    self.blocks.answer(begin);
                    if let Some(block) = self.blocks.get_mut(begin) {
                        block.mark = block.mark.or(mark);
                    }
                }
                return class;
            }
            Kind::QuietRequest { protocol, rest } => {
                self.begin(None, at, pid, false, out);
                self.quiet_request(protocol, rest, pid);
            }
            Kind::QuietResponse { epid } => {
                if let Some(begin) = self.blocks.waiting(pid, None) {
                    self.concerns_block(begin);
                    if let Some(block) = self.blocks.get_mut(begin) {
                        block.epid = Some(clean(epid, 64).into());
                    }
                    self.answered(begin, out);
                }
            }
            Kind::Refusal { reason, hresult } => {
                if let Some(begin) = self.blocks.waiting(pid, None)
                    && let Some(block) = self.blocks.remove(begin)
                {
                    self.concerns(|_| Some(block.seen.id));
                    self.ended(block, Some((reason_text(reason), hresult)), out);
                }
            }
            Kind::Unsupported { protocol, reason } => {
                let request = Request {
                    protocol: Some(clean(protocol, 11).into()),
                    ..Request::default()
                };
                self.one_line(
                    request,
                    None,
                    at,
                    Some((reason_text(reason), 0x8007_000D)),
                    out,
                );
            }
            Kind::Relayed {
                protocol,
                refused,
                mark,
            } => {
                let request = Request {
                    protocol: Some(clean(protocol, 11).into()),
                    ..Request::default()
                };
                let refused = refused.map(|code| ("refused by the upstream".into(), code));
                self.one_line(request, mark, at, refused, out);
            }
            Kind::Accepted(peer) => self.accepted(&peer, at, pid),
            Kind::Closed(peer) => self.closed(&peer, out),
            Kind::RpcAccepted(address) => {
                self.tick += 1;
                let peer = Peer {
                    name: b"",
                    address,
                    port: None,
                    mark: None,
                    rpc: true,
                };
                let seen = at.seen();
                self.connections.open(self.tick, peer, seen);
            }
            Kind::PublicRejected => self.rejected(pid, out),
            Kind::Started | Kind::Stopped => {
                self.server_changed(line.kind == Kind::Stopped, at, out);
            }
            Kind::Lifecycle
            | Kind::ChildCrashed
            | Kind::Warning
            | Kind::Limited
            | Kind::Unrecognised => {
                return class;
            }
        }
        if !matches!(
            line.kind,
            Kind::RequestMarker(_) | Kind::QuietRequest { .. }
        ) {
            self.blocks.interrupted();
        }
        class
    }

    /// A line that may be part of a name opens, closes and answers nothing by itself.
    fn apply_suspect(
        &mut self,
        line: &Line<'_>,
        at: &mut At<'_>,
        pid: Option<u32>,
        trust: Trust,
        out: &mut Vec<Event>,
    ) {
        match line.kind {
            Kind::Accepted(peer) => {
                let seen = at.seen();
                self.connections.suspect(&peer, seen);
            }
            Kind::Closed(peer) => {
                if let Some(id) = self.connections.find(&peer)
                    && let Some(connection) = self.connections.get_mut(id)
                {
                    connection.suspect_close = true;
                }
            }
            Kind::RequestMarker(mark) => self.begin(mark, at, pid, true, out),
            Kind::QuietRequest { protocol, rest } => {
                self.begin(None, at, pid, true, out);
                self.quiet_request(protocol, rest, pid);
                self.window = None;
            }
            Kind::Field(label, value) => {
                self.blocks.field(label, value, pid, trust);
            }
            Kind::Refusal { reason, hresult } => {
                if let Some(begin) = self.blocks.waiting(pid, None)
                    && let Some(block) = self.blocks.get_mut(begin)
                {
                    block.suspect_refusal = Some((reason_text(reason), hresult));
                }
            }
            Kind::Started | Kind::Stopped => {
                let kind = if line.kind == Kind::Started {
                    EventKind::ServerStarted
                } else {
                    EventKind::ServerStopped
                };
                let mut event = self.event(&at.seen(), kind);
                event.suspect = true;
                out.push(event);
            }
            _ => {}
        }
    }

    fn concerns_block(&mut self, begin: Tick) {
        self.concerns(|this| {
            this.blocks
                .iter()
                .find(|block| block.begin == begin)
                .map(|block| block.seen.id)
        });
    }

    /// Learns from a real line whether the log's past is known and dated.
    fn note_past(&mut self, line: &Line<'_>) {
        if !matches!(line.kind, Kind::Unrecognised) {
            self.dated = Some(line.stamp.is_some());
        }
        let quiet = matches!(
            line.kind,
            Kind::Lifecycle | Kind::Started | Kind::Warning | Kind::Unrecognised
        );
        if self.past == Past::Untouched && !quiet {
            self.past = Past::Late(self.now);
        }
    }

    fn accepted(&mut self, peer: &Endpoint<'_>, at: &mut At<'_>, pid: Option<u32>) {
        self.tick += 1;
        if let Some(pid) = pid {
            let other = self.processes.last_accepted.is_some_and(|last| last != pid);
            self.processes.fork |=
                other || self.processes.server.is_some_and(|server| server != pid);
            self.processes.last_accepted = Some(pid);
        }
        let seen = at.seen();
        self.connections.open(self.tick, peer.into(), seen);
    }

    fn closed(&mut self, peer: &Endpoint<'_>, out: &mut Vec<Event>) {
        self.tick += 1;
        if let Some(id) = self.connections.find(peer) {
            self.concerns(|this| {
                this.connections
                    .get(id)
                    .map(|connection| connection.seen.id)
            });
            self.connections.close(id, self.tick);
            self.waiting.closing.push(id);
            if self.waiting.concerns(id) {
                self.settle(false, out);
            }
            self.abort_orphans(out);
            self.release(out);
        } else if let Some(seen) = self.connections.confirm(peer) {
            // Its accepted line looked forged; nobody can forge this one.
            self.connections.open(self.tick, peer.into(), seen);
            self.connections.close(self.tick, self.tick);
            self.waiting.closing.push(self.tick);
            self.release(out);
        }
    }

    /// `-o2` turned a public address away: the newest that has asked nothing.
    fn rejected(&mut self, pid: Option<u32>, out: &mut Vec<Event>) {
        let fits = |c: &&connections::Connection| {
            c.is_fresh() && c.ip.is_none_or(is_public) && (pid.is_none() || c.seen.pid == pid)
        };
        let Some(id) = self.connections.newest().find(fits).map(|c| c.accepted) else {
            return;
        };
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        connection.dropped = true;
        let rpc = connection.rpc;
        if let Some(connection) = self.connections.get(id) {
            out.push(self.connection_event(connection, EventKind::Dropped));
        }
        if rpc {
            self.connections.forget(id);
        }
    }

    fn server_changed(&mut self, stopped: bool, at: &mut At<'_>, out: &mut Vec<Event>) {
        self.abort_all(out);
        self.settle(true, out);
        let seen = at.seen();
        self.past = match self.past {
            Past::Untouched if !stopped => Past::Known,
            // An orderly end and a new start: nobody is left from before.
            Past::Late(_) if self.stopped && !stopped => Past::Known,
            past => past,
        };
        self.stopped = stopped;
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

    /// A request begins with this line.
    fn begin(
        &mut self,
        mark: Option<Mark>,
        at: &mut At<'_>,
        pid: Option<u32>,
        suspect: bool,
        out: &mut Vec<Event>,
    ) {
        self.tick += 1;
        // One connection asks one thing at a time, so its last request got nothing.
        let same = |block: &&Block| {
            !suspect
                && (mark.is_some() && block.mark == mark
                    || pid.is_some() && self.processes.fork && block.seen.pid == pid)
        };
        if let Some(begin) = self.blocks.iter().find(same).map(|block| block.begin) {
            self.abort(begin, out);
        }
        if let Some(block) = self.blocks.begin(self.tick, at.seen(), mark, suspect) {
            self.ended(block, None, out);
        }
    }

    fn quiet_request(&mut self, protocol: &[u8], rest: &[u8], pid: Option<u32>) {
        if let Some(block) = self.blocks.get_mut(self.tick) {
            block.stage = Stage::Waiting;
            block.request.protocol = Some(clean(protocol, 11).into());
            block.name = rest.to_vec();
            block.name.truncate(512);
        }
        self.window = Window::quiet(self.tick, pid, rest);
        if self.window.is_none() {
            self.split_quiet(self.tick);
        }
    }

    /// The name of a quiet line is whole: takes the product off its end.
    fn split_quiet(&mut self, begin: Tick) {
        let Some(block) = self.blocks.get_mut(begin) else {
            return;
        };
        let rest = std::mem::take(&mut block.name);
        let (name, product) = names::split_quiet(&rest);
        block.name = name.to_vec();
        let Some(product) = product.filter(|product| *product != b"Unknown") else {
            return;
        };
        if product.len() == 36
            && let Ok(id) = Uuid::try_parse_ascii(product)
        {
            block.request.activation_id = Some(id);
            blocks::resolve_product(&mut block.request, None);
            if block.request.product.is_some() {
                return;
            }
        }
        block.request.product = Some(clean(product, 128).into());
    }

    /// Decides what the lines after a name are, now that a real line follows.
    fn resolve_window(&mut self, next: Option<&Line<'_>>, out: &mut Vec<Event>) {
        let Some(mut window) = self.window.take() else {
            return;
        };
        let begin = window.block;
        let verdict = if window.is_quiet() {
            self.judge_quiet(&window)
        } else {
            let (counts, answers) = match next.map(|line| line.kind) {
                Some(Kind::Field(Label::MinClients, _)) => {
                    (!self.blocks.awaits(Label::MinClients, begin), false)
                }
                Some(Kind::ResponseMarker(_) | Kind::Refusal { .. }) => (
                    false,
                    self.blocks
                        .iter()
                        .all(|block| block.begin == begin || block.stage != Stage::Waiting),
                ),
                _ => (false, false),
            };
            window.judge(counts, answers)
        };
        for (index, parked) in std::mem::take(&mut window.parked).into_iter().enumerate() {
            if index < verdict.forged {
                if let Some(block) = self.blocks.get_mut(begin) {
                    block.name.push(b'\n');
                    block.name.extend_from_slice(&parked.text);
                }
                self.concerns_block(begin);
                self.count(Class::NameContinuation, || parked.seen.id);
                continue;
            }
            if index == verdict.forged && window.is_quiet() {
                self.split_quiet(begin);
            }
            let line = line::classify(&parked.text);
            let pid = parked.seen.pid;
            let mut at = At {
                input: None,
                time: (parked.seen.time, parked.seen.time_source),
                seen: Some(parked.seen),
            };
            let own_count = verdict.count == Some(index);
            let class = if own_count && let Kind::Field(label, value) = line.kind {
                // Where it may still be forged, a second one replaces it.
                self.blocks.field(label, value, pid, Trust::Real);
                if let Some(block) = self.blocks.get_mut(begin) {
                    block.last_suspect = !verdict.proved;
                }
                line.kind.class()
            } else {
                let real = window.is_quiet()
                    || verdict.count.is_some_and(|count| index > count) && verdict.proved;
                let trust = if real {
                    Trust::Real
                } else {
                    Trust::Suspect { name_of: begin }
                };
                self.apply(&line, &mut at, pid, trust, out)
            };
            self.count(class, || parked.seen.id);
        }
        if window.is_quiet() {
            self.split_quiet_once(begin);
        }
    }

    /// How many of the lines after a quiet name are its own.
    fn judge_quiet(&self, window: &Window) -> names::Verdict {
        let mut verdict = window.judge(false, false);
        let closed = self
            .blocks
            .iter()
            .find(|block| block.begin == window.block)
            .is_some_and(|block| names::is_closed(&block.name));
        if !closed && let Some(end) = window.closing() {
            verdict.forged = verdict.forged.max(end);
        }
        verdict
    }

    fn split_quiet_once(&mut self, begin: Tick) {
        let unsplit = self
            .blocks
            .get_mut(begin)
            .is_some_and(|block| block.request.product.is_none());
        if unsplit {
            self.split_quiet(begin);
        }
    }

    /// The answer of a request is complete.
    fn answered(&mut self, begin: Tick, out: &mut Vec<Event>) {
        let Some(mut block) = self.blocks.remove(begin) else {
            return;
        };
        let mut event = self.event(&block.seen, EventKind::Activation);
        event.epid = block.epid.take();
        event.active_clients = block.active_clients;
        self.asked(block, event, out);
    }

    /// A request ends without an answer: it was refused, or nothing more came.
    fn ended(&mut self, mut block: Block, refused: Option<(Box<str>, u32)>, out: &mut Vec<Event>) {
        let suspect = refused.is_none() && block.suspect_refusal.is_some();
        let refused = refused.or_else(|| block.suspect_refusal.take());
        let kind = match (&refused, block.stage) {
            (Some(_), _) => EventKind::Refused,
            // The server says that it sends before it does.
            (None, Stage::Answering(_)) => EventKind::Activation,
            (None, _) if block.suspect => return,
            (None, _) => EventKind::Aborted,
        };
        let mut event = self.event(&block.seen, kind);
        event.suspect = suspect;
        event.epid = block.epid.take();
        event.active_clients = block.active_clients;
        if let Some((reason, hresult)) = refused {
            event.reason = Some(reason);
            event.hresult = Some(hresult);
        }
        self.asked(block, event, out);
    }

    fn asked(&mut self, block: Block, mut event: Event, out: &mut Vec<Event>) {
        let mut request = block.request;
        if !block.name.is_empty() {
            request.workstation = Some(clean(&block.name, MAX_WORKSTATION).into());
        }
        blocks::resolve_product(&mut request, None);
        let machine = machine(&block.name, request.client_machine_id);
        event.request = Some(Box::new(request));
        let asked = Asked {
            begin: block.begin,
            machine,
            pid: block.seen.pid,
            mark: block.mark,
        };
        self.attribute(event, asked, out);
    }

    /// A request that the log tells in one line.
    fn one_line(
        &mut self,
        request: Request,
        mark: Option<Mark>,
        at: &mut At<'_>,
        refused: Option<(Box<str>, u32)>,
        out: &mut Vec<Event>,
    ) {
        self.tick += 1;
        let seen = at.seen();
        let kind = if refused.is_some() {
            EventKind::Refused
        } else {
            EventKind::Activation
        };
        let mut event = self.event(&seen, kind);
        event.request = Some(Box::new(request));
        (event.reason, event.hresult) =
            refused.map_or((None, None), |(reason, code)| (Some(reason), Some(code)));
        let asked = Asked {
            begin: self.tick,
            machine: None,
            pid: seen.pid,
            mark,
        };
        self.attribute(event, asked, out);
    }

    fn abort(&mut self, begin: Tick, out: &mut Vec<Event>) {
        if let Some(block) = self.blocks.remove(begin) {
            self.ended(block, None, out);
        }
    }

    fn abort_all(&mut self, out: &mut Vec<Event>) {
        while let Some(begin) = self.blocks.iter().next().map(|block| block.begin) {
            self.abort(begin, out);
        }
    }

    /// Requests whose every possible connection is closed will get no answer.
    fn abort_orphans(&mut self, out: &mut Vec<Event>) {
        if self.blocks.is_empty() || self.past != Past::Known {
            return;
        }
        let oldest = self
            .connections
            .newest()
            .last()
            .map_or(Tick::MAX, |c| c.accepted);
        let orphan =
            |block: &&Block| oldest > block.begin && !matches!(block.stage, Stage::Answering(_));
        while let Some(begin) = self.blocks.iter().find(orphan).map(|block| block.begin) {
            self.abort(begin, out);
        }
    }

    /// An event about what was seen there; everything else is absent.
    fn event(&self, seen: &Seen, kind: EventKind) -> Event {
        Event {
            v: event::VERSION,
            id: seen.id,
            log: Arc::clone(&self.log),
            time: seen.time,
            time_source: seen.time_source,
            kind,
            connection: None,
            request_number: None,
            ip: None,
            port: None,
            zone: None,
            source: None,
            request: None,
            hresult: None,
            reason: None,
            epid: None,
            active_clients: None,
            attribution: None,
            candidates: Vec::new(),
            suspect: false,
            dedup: None,
        }
    }

    fn connection_event(&self, connection: &connections::Connection, kind: EventKind) -> Event {
        let mut event = self.event(&connection.seen, kind);
        event.connection = Some(connection.seen.id);
        event.ip = connection.ip;
        event.port = connection.port;
        event.zone.clone_from(&connection.zone);
        event
    }
}

/// The line that is being handled, and its id once somebody wants it.
struct At<'a> {
    input: Option<&'a Input<'a>>,
    time: (Option<EventTime>, TimeSource),
    seen: Option<Seen>,
}

impl At<'_> {
    fn seen(&mut self) -> Seen {
        let (time, time_source) = self.time;
        *self.seen.get_or_insert_with(|| {
            let input = self
                .input
                .expect("a line without input has been seen before");
            Seen {
                id: input.ids.id(input.offset, input.raw),
                time,
                time_source,
                pid: input.pid,
            }
        })
    }
}

fn seen(clock: &mut Clock, line: &Line<'_>, input: &Input<'_>) -> Seen {
    let time = time(clock, line, input);
    At {
        input: Some(input),
        time,
        seen: None,
    }
    .seen()
}

/// When a line was written, by the best witness.
fn time(clock: &mut Clock, line: &Line<'_>, input: &Input<'_>) -> (Option<EventTime>, TimeSource) {
    if let Some(time) = line.stamp.and_then(|stamp| clock.server(stamp)) {
        return (Some(time), TimeSource::Server);
    }
    if let Some(stamp) = input.stamp {
        clock.note(stamp);
        return (Some(stamp), TimeSource::Container);
    }
    if let Some((stamp, modified)) = input.yearless
        && let Some(time) = clock.yearless(stamp, modified)
    {
        return (Some(time), TimeSource::Server);
    }
    (input.read_at.map(EventTime::utc), TimeSource::Read)
}

fn machine(name: &[u8], id: Option<Uuid>) -> Option<Machine> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    if name.is_empty() && id.is_none() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (name, id.map(|id| id.as_u128())).hash(&mut hasher);
    Some(Machine(hasher.finish()))
}

fn reason_text(words: &[u8]) -> Box<str> {
    clean(words, 128).into()
}
