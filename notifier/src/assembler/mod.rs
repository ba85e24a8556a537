//! From lines to events: who connected, who asked for what, what became of it.
//!
//! Pure: it reads no clock and no file. [`Assembler::handle_line`] takes a line,
//! [`Assembler::handle_idle`] says that none came for a while,
//! [`Assembler::finish`] that none will come; finished events are appended to
//! the caller's list. Everything it keeps is bounded, and what it gives up is
//! counted in [`Counters`].
//!
//! What a line does is told by `requests` and `presence`, what it can be if a
//! client may have forged it by `forgery`. `blocks` sorts interleaved lines,
//! `connections` says who is there; `waiting`, `belief` and `attribution` who asked.

mod attribution;
mod belief;
mod blocks;
mod clock;
mod connections;
mod forgery;
mod names;
mod presence;
mod requests;
mod run;
mod saved;
#[cfg(test)]
mod sure_tests;
mod table;
#[cfg(test)]
mod tests;
mod trace;
mod values;
mod waiting;

use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::event::{Event, EventId, EventTime, IdMaker, Kind as EventKind, Request, TimeSource};
use crate::line::{self, Class, Kind, Label, Line};

use belief::{Scales, Why};
use blocks::{Block, Blocks, Taken};
use clock::Clock;
use connections::{Connection, Connections, Tick};
use names::Window;
use presence::{Past, Processes};
use requests::words;
use trace::Traces;
use waiting::Waiting;

pub use run::{Ahead, Handled};
pub use saved::VERSION;
pub use trace::Trace;

/// A request block that got no answer for so long is given up.
const UNANSWERED: SignedDuration = SignedDuration::from_secs(60);

/// How often, by the log's time, it is looked for what has grown old.
const AGING: SignedDuration = SignedDuration::from_secs(10);

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
    /// Waiting requests and closed connections decided before their time.
    pub evicted_requests: u64,
}

impl Counters {
    fn line(&mut self, class: Class) {
        if let Some(lines) = self.lines.get_mut(class as usize) {
            *lines += 1;
        }
        self.suspect += u64::from(class == Class::Suspect);
    }
}

/// Turns the lines of one log into events.
#[derive(Debug, Serialize, Deserialize)]
pub struct Assembler {
    #[serde(skip)]
    log: Arc<str>,
    clock: Clock,
    /// When the last line was stamped, and when it was last looked for old things.
    now: Option<Timestamp>,
    aged: Option<Timestamp>,
    tick: Tick,
    line: u64,
    past: Past,
    processes: Processes,
    connections: Connections,
    blocks: Blocks,
    window: Option<Window>,
    waiting: Waiting,
    #[serde(skip)]
    scales: Option<Box<Scales>>,
    #[serde(skip)]
    here: Here,
    #[serde(skip)]
    counters: Counters,
    #[serde(skip)]
    traces: Option<Traces>,
}

impl Assembler {
    /// For the log called `log`, of a server that stamps lines in `zone`.
    #[must_use]
    pub fn new(log: Arc<str>, zone: TimeZone) -> Self {
        Self {
            log,
            clock: Clock::new(zone),
            now: None,
            aged: None,
            tick: 0,
            line: 0,
            past: Past::default(),
            processes: Processes::default(),
            connections: Connections::default(),
            blocks: Blocks::default(),
            window: None,
            waiting: Waiting::default(),
            scales: None,
            here: Here::default(),
            counters: Counters::default(),
            traces: None,
        }
    }

    /// Takes the next line and appends the events that it decides.
    #[inline]
    pub fn handle_line(&mut self, input: &Input<'_>, out: &mut Vec<Event>) {
        self.line += 1;
        // Nine lines in ten have the stamp of the line above, and go on with what
        // that one began.
        if let Some((prefix, text)) = input.text.split_first_chunk()
            && *prefix == self.here.prefix
            && !input.unwrapped
            && self.leaves_name(input.text, input.pid, out)
        {
            if self.waiting.waits_by_line() {
                self.advance(self.here.time.map(|time| time.at), out);
            }
            return self.handle_text(text, input, out);
        }
        self.handle_other(input, out);
    }

    /// A line at the moment of the one above, which is known.
    #[inline]
    fn handle_text(&mut self, text: &[u8], input: &Input<'_>, out: &mut Vec<Event>) {
        let Some((label, value)) = line::field(text) else {
            return self.handle_kind(&line::kind(text), true, input, out);
        };
        self.handle_field(label, value, input, out);
    }

    /// A line of a block at the moment of the one above. Whether the block took it
    /// and goes on.
    #[inline(always)]
    fn handle_field(
        &mut self,
        label: Label,
        value: &[u8],
        input: &Input<'_>,
        out: &mut Vec<Event>,
    ) -> bool {
        if self.past == Past::Untouched {
            self.past = Past::Late(self.now);
        }
        let taken = self.blocks.own_field(label, value, input.pid);
        let goes_on = matches!(taken, Taken::Line(_));
        if goes_on && label != Label::Workstation && self.traces.is_none() {
            self.counters.line(label.class());
            return true;
        }
        let mut at = At::line(input, &self.here);
        self.field_taken(taken, label, value, &mut at, input.pid, true, out);
        self.count(label.class(), || at.seen().id);
        goes_on
    }

    /// A line that does not just go on at the moment of the one above.
    #[inline(never)]
    fn handle_other(&mut self, input: &Input<'_>, out: &mut Vec<Event>) {
        let line = line::classify(input.text);
        if self.window.is_some() {
            if self.park(&line, input) {
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
        (self.here.time, self.here.source) = time(&mut self.clock, &line, input);
        // Only where the stamp was the best witness it stands for the moment.
        self.here.prefix = match (input.text.first_chunk(), self.here.source) {
            (Some(prefix), TimeSource::Server) if line.stamp.is_some() => *prefix,
            _ => line::Prefix::default(),
        };
        self.advance(self.here.time.map(|time| time.at), out);
        self.handle_kind(&line.kind, line.stamp.is_some(), input, out);
    }

    #[inline(never)]
    fn handle_kind(
        &mut self,
        kind: &Kind<'_>,
        dated: bool,
        input: &Input<'_>,
        out: &mut Vec<Event>,
    ) {
        let mut at = At::line(input, &self.here);
        self.apply(kind, &mut at, input.pid, dated, out);
        self.count(kind.class(), || at.seen().id);
    }

    /// No line came for a while (3 s while following): what waits for more is decided.
    pub fn handle_idle(&mut self, out: &mut Vec<Event>) {
        self.resolve_window(None, out);
        self.settle(Why::End, out);
    }

    /// The reading ends here and goes on later from here: what waits for more is
    /// decided; what is being written stays as it is.
    pub fn pause(&mut self, out: &mut Vec<Event>) {
        self.settle(Why::End, out);
    }

    /// Lines are missing here: what was being written is given up, and nobody
    /// knows any more who is there.
    pub fn handle_gap(&mut self, out: &mut Vec<Event>) {
        self.resolve_window(None, out);
        self.settle(Why::End, out);
        self.blocks.clear();
        self.connections.server_changed();
        self.processes = Processes::default();
        self.past = Past::Late(None);
    }

    /// The log ends here. `server_ended` says that the server did too, so that
    /// nothing that was begun will be answered.
    pub fn finish(&mut self, server_ended: bool, out: &mut Vec<Event>) {
        self.resolve_window(None, out);
        if server_ended {
            self.abort_all(out);
        }
        self.settle(Why::End, out);
    }

    /// What was counted since the last call.
    pub fn take_counters(&mut self) -> Counters {
        let mut counters = std::mem::take(&mut self.counters);
        counters.evicted_connections = std::mem::take(&mut self.connections.evicted);
        counters.evicted_blocks = std::mem::take(&mut self.blocks.evicted);
        counters.evicted_requests = std::mem::take(&mut self.waiting.evicted);
        counters
    }

    /// Requests that were begun and not decided.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.blocks.len() + self.waiting.requests()
    }

    /// Whether something waits that [`Self::handle_idle`] would decide.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.window.is_some() || !self.waiting.is_empty()
    }

    /// Time goes on: what waited long enough is decided.
    fn advance(&mut self, now: Option<Timestamp>, out: &mut Vec<Event>) {
        self.now = now.or(self.now);
        if self.waiting.is_due(self.now, self.line) {
            self.settle(Why::Due, out);
        }
        let Some(now) = self.now else { return };
        // In either direction: clocks are set back, too.
        if self
            .aged
            .is_none_or(|aged| now.duration_since(aged).abs() >= AGING)
        {
            self.aged = Some(now);
            self.age(now, out);
        }
    }

    fn age(&mut self, now: Timestamp, out: &mut Vec<Event>) {
        let old = |block: &Block| {
            block
                .seen
                .time
                .is_some_and(|time| now.duration_since(time.at) > UNANSWERED)
        };
        while let Some(begin) = self.blocks.find(old) {
            self.abort(begin, out);
        }
        self.past.age(now);
        for connection in self.connections.age(now) {
            // Only a line that may be forged ever closed it; nothing else came.
            if connection.suspect_close && connection.is_fresh() {
                let mut event = self.connection_event(&connection, EventKind::Probe);
                event.suspect = true;
                out.push(event);
            }
        }
    }

    /// Does what a line of the server says.
    #[inline]
    fn apply(
        &mut self,
        kind: &Kind<'_>,
        at: &mut At<'_>,
        pid: Option<u32>,
        dated: bool,
        out: &mut Vec<Event>,
    ) {
        self.past.note(kind, self.now);
        match *kind {
            Kind::Field(label, value) => return self.field(label, value, at, pid, dated, out),
            Kind::ResponseMarker(mark) => return self.answer(mark, pid),
            Kind::RequestMarker(mark) => return self.begin(mark, at, pid, out),
            Kind::QuietRequest { protocol, rest } => {
                let (rest, mark) = self.quiet_mark(rest);
                self.begin(mark, at, pid, out);
                return self.quiet_request(protocol, rest, pid, dated);
            }
            Kind::QuietResponse { epid, mark } => self.quiet_response(epid, mark, pid, out),
            Kind::Refusal { reason, hresult } => self.refuse(reason, hresult, pid, out),
            Kind::RefusedAlone {
                protocol,
                reason,
                hresult,
            } => {
                let refused = Some((words(reason), hresult));
                self.one_line(Request::default(), protocol, None, at, refused, out);
            }
            Kind::Relayed {
                protocol,
                refused,
                mark,
            } => {
                let refused = refused.map(|code| ("refused by the upstream".into(), code));
                let request = Request {
                    protected: true,
                    ..Request::default()
                };
                self.one_line(request, Some(protocol), mark, at, refused, out);
            }
            Kind::Accepted(peer) => self.accepted((&peer).into(), at, pid),
            Kind::RpcAccepted(address) => self.accepted(connections::Peer::rpc(address), at, pid),
            Kind::Closed(peer) => self.closed(&peer, out),
            Kind::PublicRejected => self.rejected(pid, out),
            Kind::Started => self.server_changed(false, at, out),
            Kind::Stopped => self.server_changed(true, at, out),
            Kind::Lifecycle
            | Kind::ChildCrashed
            | Kind::Warning
            | Kind::Limited
            | Kind::Unrecognised => return,
        }
        self.blocks.interrupted();
    }

    /// A line of a block.
    fn field(
        &mut self,
        label: Label,
        value: &[u8],
        at: &mut At<'_>,
        pid: Option<u32>,
        dated: bool,
        out: &mut Vec<Event>,
    ) {
        let taken = self.blocks.field(label, value, pid, None);
        self.field_taken(taken, label, value, at, pid, dated, out);
    }

    /// What follows from where a line of a block belongs.
    #[expect(clippy::too_many_arguments, reason = "a line, and what became of it")]
    fn field_taken(
        &mut self,
        mut taken: Taken,
        label: Label,
        value: &[u8],
        at: &mut At<'_>,
        pid: Option<u32>,
        dated: bool,
        out: &mut Vec<Event>,
    ) {
        if taken == Taken::Orphan && self.lost_its_marker(label) {
            self.open_block(None, at, false, out);
            taken = self.blocks.field(label, value, pid, None);
        }
        if let Taken::Line(begin) | Taken::Answered(begin) = taken {
            self.concerns_block(begin);
        }
        match taken {
            Taken::Line(begin) if label == Label::Workstation => {
                self.window = Window::verbose(begin, pid, dated, value);
            }
            Taken::Orphan | Taken::Line(_) => {}
            Taken::Answered(begin) => self.answered(begin, out),
        }
    }

    /// Whether a line that no block waits for is what is left of one whose begin
    /// was lost: somebody asked, so whoever is there is no mere probe.
    fn lost_its_marker(&self, label: Label) -> bool {
        let only_asked = matches!(
            label,
            Label::VirtualMachine
                | Label::Status
                | Label::Remaining
                | Label::Application
                | Label::Activation
                | Label::KmsCounted
                | Label::PreviousClientMachine
                | Label::Workstation
        );
        only_asked && self.blocks.is_empty() && self.connections.has_fresh()
    }

    /// An event about what was seen there; everything else is absent.
    fn event(&self, seen: &Seen, kind: EventKind) -> Event {
        Event {
            time_source: seen.time_source,
            ..Event::new(seen.id, Arc::clone(&self.log), seen.time, kind)
        }
    }

    fn connection_event(&self, connection: &Connection, kind: EventKind) -> Event {
        let mut event = self.event(&connection.seen, kind);
        event.connection = Some(connection.seen.id);
        event.ip = connection.ip;
        event.port = connection.port;
        event.zone.clone_from(&connection.zone);
        event
    }
}

/// Where and when something was seen: what an event keeps of its first line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Seen {
    id: EventId,
    time: Option<EventTime>,
    time_source: TimeSource,
    pid: Option<u32>,
}

impl Seen {
    /// Whether the process of another line may have written this one; a line without
    /// one says nothing.
    fn is_by(&self, pid: Option<u32>) -> bool {
        pid.is_none() || self.pid == pid
    }
}

/// When the last line was written that was the server's for sure.
#[derive(Debug)]
struct Here {
    time: Option<EventTime>,
    source: TimeSource,
    /// The prefix that says so; nothing that a server writes where it does not.
    prefix: line::Prefix,
}

impl Default for Here {
    fn default() -> Self {
        Self {
            time: None,
            source: TimeSource::Read,
            prefix: line::Prefix::default(),
        }
    }
}

/// The line that is being handled, and its id once somebody wants it.
struct At<'a> {
    input: Option<&'a Input<'a>>,
    time: (Option<EventTime>, TimeSource),
    seen: Option<Seen>,
}

impl<'a> At<'a> {
    #[inline]
    fn line(input: &'a Input<'a>, here: &Here) -> Self {
        Self {
            input: Some(input),
            time: (here.time, here.source),
            seen: None,
        }
    }

    /// A line whose id was made before.
    fn parked(seen: Seen) -> Self {
        Self {
            input: None,
            time: (seen.time, seen.time_source),
            seen: Some(seen),
        }
    }

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
