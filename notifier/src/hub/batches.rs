//! What the logs bring: it is decided and counted, then printed by the [`Printer`],
//! and only then where its log stands is stored. One batch at a time: a position
//! has the policy forget all events so far.
//!
//! [`Printer`]: super::Printer

use super::{Hub, monotonic, now};
use crate::event::{Event, Kind};
use crate::follow::{Batch, News};
use crate::line::Class;
use crate::sink::metrics::Evicted;

impl Hub {
    /// Takes what a log brought. Not while the printer is busy.
    pub(super) fn take(&mut self, news: News) {
        match news {
            News::Batch(batch) => self.begin(batch),
            News::Ended(log) => {
                self.logs = self.logs.saturating_sub(1);
                self.watches.handle_end(&log);
            }
        }
    }

    /// Decides about a batch, counts it, and has it printed.
    fn begin(&mut self, mut batch: Box<Batch>) {
        let now = now();
        let log = self.metrics.log(&batch.log);
        for event in &mut batch.events {
            self.policy.handle_event(event, now);
        }
        let products = self.metrics.observe(&batch.events);
        if let Some(recent) = &self.recent {
            recent.observe(&batch.events, &products, now);
        }
        let (mut all, mut unrecognised) = (0, 0);
        for (class, lines) in Class::ALL.iter().zip(batch.counters.lines) {
            log.lines(class.as_str(), lines);
            all += lines;
            unrecognised += if *class == Class::Unrecognised {
                lines
            } else {
                0
            };
        }
        let is_start = |event: &Event| event.kind == Kind::ServerStarted && !event.suspect;
        let started = batch.events.iter().any(is_start);
        self.watches
            .handle_lines(&batch.log, started, all, unrecognised, now);
        log.suspect_lines(batch.counters.suspect);
        log.bytes(batch.bytes);
        for (kind, times) in [
            (crate::source::Rotation::Rename, batch.traffic.renames),
            (crate::source::Rotation::Truncate, batch.traffic.truncations),
        ] {
            for _ in 0..times {
                log.rotation(kind);
            }
        }
        log.gaps(batch.traffic.gaps);
        log.lost(batch.traffic.lost);
        self.metrics.evicted(Evicted::CutLine, batch.traffic.cut);
        self.metrics
            .evicted(Evicted::Connection, batch.counters.evicted_connections);
        self.metrics
            .evicted(Evicted::Block, batch.counters.evicted_blocks);
        self.metrics
            .evicted(Evicted::WaitingEvent, batch.counters.evicted_requests);
        self.metrics
            .evicted(Evicted::StoredRequest, batch.dropped_requests);
        // A stream cannot be read again.
        if !batch.read_again && self.store.is_some() && self.policy.has_changed() {
            self.stream_unsaved.get_or_insert(monotonic());
        }
        if batch.events.is_empty() {
            self.finish(*batch);
        } else {
            // Whoever sees an event finds it counted.
            self.printer.print(batch);
        }
    }

    /// The batch under way is printed.
    pub(super) fn printed(&mut self, batch: Batch) {
        if self.printer.is_held_up() {
            self.watches.handle_pause(now());
        }
        self.printer.finish();
        self.finish(batch);
    }

    /// What is stored speaks of events that were printed.
    fn finish(&mut self, batch: Batch) {
        if batch.position.is_some() {
            self.keep_watch(&batch.log);
        }
        if let (Some(position), Some(store)) = (batch.position, &mut self.store) {
            self.policy.handle_position(&batch.log);
            store.handle_log(batch.log, position);
            self.unsaved = true;
        }
        // The log may have ended.
        let _ = batch.spent.send(batch.events);
    }
}
