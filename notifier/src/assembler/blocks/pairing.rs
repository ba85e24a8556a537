//! Which request an answer or a refusal belongs to, by what both say.

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use kms_core::catalog;
use uuid::Uuid;

use super::{Block, Blocks, Stage, guid};
use crate::assembler::connections::Tick;
use crate::event::Request;
use crate::line::Label;

/// How far a client's clock may be from the server's (kms-wire.md 7.7).
const MAX_APART: SignedDuration = SignedDuration::from_hours(4);

/// What a response repeats of its request.
#[derive(Clone, Copy, Default)]
struct Told<'a> {
    protocol: Option<&'a [u8]>,
    machine: Option<Uuid>,
    time: Option<&'a [u8]>,
}

impl<'a> Told<'a> {
    fn of(request: &'a Request) -> Self {
        Self {
            protocol: request.protocol.as_deref().map(str::as_bytes),
            machine: request.client_machine_id,
            time: request.client_time.as_deref().map(str::as_bytes),
        }
    }

    /// Whether a request says the same, as far as this goes.
    fn fits(&self, request: &Request) -> bool {
        let own = Told::of(request);
        let same = |told: Option<&[u8]>, own: Option<&[u8]>| told.is_none() || told == own;
        same(self.protocol, own.protocol)
            && same(self.time, own.time)
            && (self.machine.is_none() || self.machine == own.machine)
    }
}

impl Block {
    /// Whether a refusal in these words (kms-wire.md 7.7) is what this request asks for.
    fn is_cause(&self, reason: &[u8]) -> bool {
        let request = &self.request;
        let starts = |words: &[u8]| reason.starts_with(words);
        if starts(b"Rejecting request with more than 1000 ") {
            request.min_clients > Some(1000)
        } else if starts(b"Client time differs") {
            let asked = request
                .client_time
                .as_deref()
                .and_then(|text| text.parse().ok());
            let asked = asked.and_then(|time: DateTime| time.to_zoned(TimeZone::UTC).ok());
            let apart = asked
                .zip(self.seen.time)
                .map(|(asked, seen)| asked.timestamp().duration_since(seen.at).abs());
            apart > Some(MAX_APART)
        } else if starts(b"Refusing unknown product") {
            request
                .kms_counted_id
                .and_then(catalog::kms_counted)
                .is_none()
        } else if starts(b"Refusing product with incorrect Application ID") {
            let right = self.edition.map(|product| product.application_id);
            right.is_some() && right != self.application_id
        } else {
            false
        }
    }
}

impl Blocks {
    /// A response block belongs to the request with its version, its client machine id
    /// and its client's time: once a line says otherwise of the block that was taken for
    /// its own, it goes on as that of another one that waits.
    pub(super) fn relink(&mut self, begin: Tick, label: Label, value: &[u8]) {
        let mut told = Told::default();
        match label {
            Label::Protocol => told.protocol = Some(value),
            Label::ClientMachine => told.machine = guid(value),
            Label::ClientTime => told.time = Some(value),
            _ => return,
        }
        let answers =
            |block: &Block| block.begin == begin && matches!(block.stage, Stage::Answering(_));
        let Some(at) = self.open.iter().position(answers) else {
            return;
        };
        let Some(block) = self.open.get(at).filter(|block| !told.fits(&block.request)) else {
            return;
        };
        // What the lines before this one said is the block's own, as far as it was told.
        let own = Told::of(&block.request);
        let more = Told {
            protocol: told.protocol.or(own.protocol),
            machine: told.machine.or(own.machine.filter(|_| told.time.is_some())),
            ..told
        };
        let waits = |told: Told<'_>| {
            self.open
                .iter()
                .position(|block| block.stage == Stage::Waiting && told.fits(&block.request))
        };
        let right = waits(more).or_else(|| waits(told).filter(|_| told.machine.is_some()));
        if let Some(right) = right
            && let Ok([taken, asked]) = self.open.get_disjoint_mut([at, right])
        {
            asked.set_stage(taken.stage);
            taken.set_stage(Stage::Waiting);
            asked.epid = taken.epid.take();
            asked.active_clients = taken.active_clients.take();
            asked.touched = taken.touched;
            let begin = asked.begin;
            self.wrote(begin);
        }
    }

    /// The request that a refusal is about: one that gives cause for it, if any does.
    pub(in crate::assembler) fn refused(&self, pid: Option<u32>, reason: &[u8]) -> Option<Tick> {
        let waits = |block: &&Block| block.stage == Stage::Waiting && block.seen.is_by(pid);
        let causes = self.open.iter().filter(waits);
        let causes = causes.filter(|block| block.is_cause(reason));
        let best = causes.min_by_key(|block| (!self.is_writer(block.begin), block.begin));
        best.map(|block| block.begin)
            .or_else(|| self.waiting(pid, None))
    }
}
