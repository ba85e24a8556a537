//! What is asked and what becomes of it.

use kms_core::text::clean;
use uuid::Uuid;

use super::blocks::{self, Block, Stage};
use super::connections::{Machine, Tick};
use super::names::{self, Window};
use super::presence::Past;
use super::waiting::{Asked, Certainty};
use super::{Assembler, At, Event, EventKind, Request};
use crate::event::Text;
use crate::line::{self, Mark};

/// Characters kept of a client's name: 65 units, and line feeds that were added.
const MAX_WORKSTATION: usize = 130;

/// Bytes of a quiet line's name and product that are kept.
const MAX_QUIET: usize = 512;

/// The words and the code of a refusal.
type Refused = (Text, u32);

impl Assembler {
    /// A request begins with this line.
    pub(super) fn begin(
        &mut self,
        mark: Option<Mark>,
        at: &mut At<'_>,
        pid: Option<u32>,
        out: &mut Vec<Event>,
    ) {
        // One connection asks one thing at a time, so its last request got nothing.
        let own_process = pid.is_some() && self.processes.fork;
        let same = |block: &Block| {
            mark.is_some() && block.mark == mark || own_process && block.seen.pid == pid
        };
        if let Some(begin) = self.blocks.find(same) {
            self.abort(begin, out);
        }
        self.open_block(mark, at, false, out);
    }

    /// Opens a block with this line, which may be forged.
    pub(super) fn open_block(
        &mut self,
        mark: Option<Mark>,
        at: &mut At<'_>,
        suspect: bool,
        out: &mut Vec<Event>,
    ) {
        self.tick += 1;
        if let Some(block) = self.blocks.begin(self.tick, at.seen(), mark, suspect) {
            self.ended(block, None, true, out);
        }
    }

    /// Takes the mark off a request in one line. Without marks in the log, what
    /// looks like one is a client's, and the name may go on in the next line; so it
    /// counts only where it names a connection.
    pub(super) fn quiet_mark<'a>(&self, rest: &'a [u8]) -> (&'a [u8], Option<Mark>) {
        match line::split_mark(rest) {
            (text, Some(mark)) if self.connections.marked(mark).is_some() => (text, Some(mark)),
            _ => (rest, None),
        }
    }

    /// A request in one line was begun; its name may go on in the next.
    pub(super) fn quiet_request(
        &mut self,
        protocol: &[u8],
        rest: &[u8],
        pid: Option<u32>,
        dated: bool,
    ) {
        if let Some(block) = self.blocks.get_mut(self.tick) {
            block.set_stage(Stage::Waiting);
            block.request.protocol = Some(clean(protocol, 11).into());
            block.name = rest.to_vec();
            block.name.truncate(MAX_QUIET);
        }
        // Who marks its lines also cleans its names.
        let marked = self
            .blocks
            .get_mut(self.tick)
            .is_some_and(|block| block.mark.is_some());
        self.window = if marked {
            None
        } else {
            Window::quiet(self.tick, pid, dated, rest)
        };
        if self.window.is_none() {
            self.split_quiet(self.tick);
        }
    }

    /// The name of a quiet line is whole: takes the product off its end.
    pub(super) fn split_quiet(&mut self, begin: Tick) {
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
        }
        let known = block.request.product.take();
        block.request.product = known.or_else(|| Some(clean(product, 128).into()));
    }

    /// A response block begins.
    pub(super) fn answer(&mut self, mark: Option<Mark>, pid: Option<u32>) {
        let Some(begin) = self.blocks.waiting(pid, mark) else {
            return;
        };
        self.concerns_block(begin);
        self.blocks.answer(begin);
        if let Some(block) = self.blocks.get_mut(begin) {
            block.mark = block.mark.or(mark);
        }
    }

    pub(super) fn quiet_response(
        &mut self,
        epid: &[u8],
        mark: Option<Mark>,
        pid: Option<u32>,
        out: &mut Vec<Event>,
    ) {
        let Some(begin) = self.blocks.waiting(pid, mark) else {
            return;
        };
        self.concerns_block(begin);
        if mark.is_none() {
            self.blocks.mixed_up(pid);
        }
        if let Some(block) = self.blocks.get_mut(begin) {
            block.mark = block.mark.or(mark);
            block.epid = Some(clean(epid, 64).into());
        }
        self.answered(begin, out);
    }

    pub(super) fn refuse(
        &mut self,
        reason: &[u8],
        hresult: u32,
        pid: Option<u32>,
        out: &mut Vec<Event>,
    ) {
        let Some(begin) = self.blocks.refused(pid, reason) else {
            return;
        };
        self.concerns_block(begin);
        self.blocks.mixed_up(pid);
        if let Some(block) = self.blocks.remove(begin) {
            self.ended(block, Some((words(reason), hresult)), false, out);
        }
    }

    /// The answer of a request is complete.
    pub(super) fn answered(&mut self, begin: Tick, out: &mut Vec<Event>) {
        if let Some(mut block) = self.blocks.remove(begin) {
            block.set_stage(Stage::Answering(0));
            self.ended(block, None, false, out);
        }
    }

    /// A request that the log tells in one line.
    pub(super) fn one_line(
        &mut self,
        mut request: Request,
        protocol: Option<&[u8]>,
        mark: Option<Mark>,
        at: &mut At<'_>,
        refused: Option<Refused>,
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
        request.protocol = protocol.map(|protocol| clean(protocol, 11).into());
        event.request = Some(Box::new(request));
        (event.reason, event.hresult) = refused.unzip();
        let asked = Asked {
            begin: self.tick,
            machine: None,
            pid: seen.pid,
            mark,
        };
        self.attribute(event, asked, Certainty::default(), out);
    }

    pub(super) fn abort(&mut self, begin: Tick, out: &mut Vec<Event>) {
        if let Some(block) = self.blocks.remove(begin) {
            self.ended(block, None, true, out);
        }
    }

    pub(super) fn abort_all(&mut self, out: &mut Vec<Event>) {
        while let Some(begin) = self.blocks.find(|_| true) {
            self.abort(begin, out);
        }
    }

    /// Requests whose every possible connection is closed will get no answer.
    pub(super) fn abort_orphans(&mut self, out: &mut Vec<Event>) {
        if self.blocks.is_empty() || self.past != Past::Known {
            return;
        }
        let oldest = self.connections.oldest().next();
        let oldest = oldest.map_or(Tick::MAX, |c| c.accepted);
        let orphan =
            |block: &Block| oldest > block.begin && !matches!(block.stage(), Stage::Answering(_));
        while let Some(begin) = self.blocks.find(orphan) {
            self.abort(begin, out);
        }
    }

    /// A request is over: answered, refused, or `given_up` since nothing more will come.
    fn ended(
        &mut self,
        mut block: Block,
        refused: Option<Refused>,
        given_up: bool,
        out: &mut Vec<Event>,
    ) {
        let suspect = refused.is_none() && block.suspect_refusal.is_some();
        let refused = refused.or_else(|| block.suspect_refusal.take());
        let kind = match (&refused, block.stage()) {
            // The server says that it sends before it does.
            (_, Stage::Answering(_)) => EventKind::Activation,
            (Some(_), _) => EventKind::Refused,
            // Its marker was forged, or nothing but the marker is left of it.
            (None, _) if block.suspect => return,
            (None, _) => EventKind::Aborted,
        };
        let mut event = self.event(&block.seen, kind);
        event.epid = block.epid.take();
        event.active_clients = block.active_clients;
        if kind == EventKind::Refused {
            (event.reason, event.hresult) = refused.unzip();
            event.suspect = suspect;
        }
        let mut request = block.request;
        if !block.name.is_empty() {
            request.workstation = Some(clean(&block.name, MAX_WORKSTATION).into());
        }
        blocks::resolve_product(&mut request, None);
        let machine = Machine::new(&block.name, request.client_machine_id);
        event.request = Some(request);
        let asked = Asked {
            begin: block.begin,
            machine,
            pid: block.seen.pid,
            mark: block.mark,
        };
        let certainty = Certainty {
            given_up,
            mixed: block.mixed,
        };
        self.attribute(event, asked, certainty, out);
    }
}

/// Words of the server that an event repeats.
pub(super) fn words(text: &[u8]) -> Text {
    clean(text, 128).into()
}
