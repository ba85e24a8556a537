//! Lines that a workstation name may have forged: parked until a real line says
//! more, then the name's, or real, or suspect (docs/events.md, "What a client can
//! forge").

use super::blocks::Stage;
use super::names::{Parked, Verdict};
use super::{Assembler, At, Class, Event, EventKind, Input, Kind, Label, Line, Seen, time};
use crate::line;

use super::connections::Tick;
use super::requests::words;

impl Assembler {
    /// Parks a line if it may be part of the name that was begun last.
    pub(super) fn park(&mut self, line: &Line<'_>, input: &Input<'_>) -> bool {
        let Some(window) = &mut self.window else {
            return false;
        };
        let Some(certain) = window.takes(line, input) else {
            return false;
        };
        // A stamp that a client may have made up moves no clock.
        let (time, time_source) = time(&mut self.clock.clone(), line, input);
        self.here.prefix = line::Prefix::default();
        let id = input.ids.id(input.offset, input.raw);
        let seen = Seen {
            id,
            time,
            time_source,
            pid: input.pid,
        };
        window.parked.push(Parked {
            text: input.text.to_vec(),
            seen,
            certain,
        });
        true
    }

    /// Decides what the parked lines are, now that a real line follows or none does.
    pub(super) fn resolve_window(&mut self, next: Option<&Line<'_>>, out: &mut Vec<Event>) {
        let Some(mut window) = self.window.take() else {
            return;
        };
        if window.parked.is_empty() && !window.is_quiet() {
            return;
        }
        let begin = window.block;
        let name = self.blocks.get(begin).map(|block| block.name.as_slice());
        let verdict = if window.is_quiet() {
            window.judge_quiet(name.unwrap_or_default())
        } else {
            self.judge_verbose(&window, next)
        };
        let mut parked = std::mem::take(&mut window.parked).into_iter();
        for line in parked.by_ref().take(verdict.forged) {
            if let Some(block) = self.blocks.get_mut(begin) {
                block.name.push(b'\n');
                block.name.extend_from_slice(&line.text);
            }
            self.concerns_block(begin);
            self.count(Class::NameContinuation, || line.seen.id);
        }
        if window.is_quiet() {
            self.split_quiet(begin);
        }
        for (index, parked) in (verdict.forged..).zip(parked) {
            self.release_parked(&parked, begin, verdict.of(index), out);
        }
    }

    /// What only the other blocks can say: whether the real line that follows
    /// proves that this block's client count came, or did not.
    fn judge_verbose(&self, window: &super::Window, next: Option<&Line<'_>>) -> Verdict {
        let begin = window.block;
        let (counts, answers) = match next.map(|line| line.kind) {
            Some(Kind::Field(Label::MinClients, _)) => {
                (!self.blocks.awaits(Label::MinClients, begin), false)
            }
            Some(Kind::ResponseMarker(_) | Kind::Refusal { .. }) => {
                (false, !self.blocks.others_wait(begin))
            }
            _ => (false, false),
        };
        window.judge(counts, answers)
    }

    /// Lets a parked line go that is not, or not surely, the name's.
    fn release_parked(
        &mut self,
        parked: &Parked,
        name_of: Tick,
        judged: Judged,
        out: &mut Vec<Event>,
    ) {
        let line = line::classify(&parked.text);
        let (seen, pid) = (parked.seen, parked.seen.pid);
        let mut at = At::parked(seen);
        let class = match (judged, line.kind) {
            (Judged::Count { proved }, Kind::Field(label, value)) => {
                self.blocks.field(label, value, pid, None);
                if let Some(block) = self.blocks.get_mut(name_of) {
                    // Where it may still be forged, a second one replaces it.
                    block.last_suspect = !proved;
                }
                self.concerns_block(name_of);
                line.kind.class()
            }
            (Judged::Real | Judged::Count { .. }, kind) => {
                self.apply(&kind, &mut at, pid, line.stamp.is_some(), out);
                kind.class()
            }
            (Judged::Suspect, _) => {
                self.apply_suspect(&line, &mut at, pid, name_of, out);
                Class::Suspect
            }
        };
        self.count(class, || seen.id);
    }

    /// A line that may be part of a name opens, closes and answers nothing by itself.
    fn apply_suspect(
        &mut self,
        line: &Line<'_>,
        at: &mut At<'_>,
        pid: Option<u32>,
        name_of: Tick,
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
            Kind::RequestMarker(mark) => self.open_block(mark, at, true, out),
            Kind::QuietRequest { protocol, rest } => {
                self.open_block(None, at, true, out);
                self.quiet_request(protocol, rest, pid, line.stamp.is_some());
                if self.window.take().is_some() {
                    self.split_quiet(self.tick);
                }
            }
            Kind::Field(label, value) => {
                self.blocks.field(label, value, pid, Some(name_of));
            }
            Kind::Refusal { reason, hresult } => {
                if let Some(begin) = self.blocks.refused(pid, reason)
                    && let Some(block) = self.blocks.get_mut(begin)
                    && block.stage() == Stage::Waiting
                {
                    block.suspect_refusal = Some((words(reason), hresult));
                }
            }
            Kind::Started | Kind::Stopped => {
                let started = line.kind == Kind::Started;
                let kind = if started {
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
}

/// What a parked line that is not the name's turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// The server wrote it.
    Real,
    /// The block's own client count, which a later one may still replace.
    Count {
        /// It cannot be forged.
        proved: bool,
    },
    /// It may be either.
    Suspect,
}
