//! What the page remembers of events.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use kms_core::text::clean;

use crate::event::{Attribution, Dedup, Event, Kind, Text};
use crate::sink::metrics::Tally;

/// Events of one kind that are remembered, and events shown at a time. Of each
/// kind as many, so that a port scan does not push out the activations.
pub const MAX_EVENTS: usize = 200;

/// Hours of the charts, the current one included.
pub(super) const HOURS: usize = 24;
const HOUR: i64 = 3600;

/// Longest text of an event that is shown, in characters.
const MAX_TEXT: usize = 120;

/// Source classes remembered at most: more than one configuration can name.
/// Re-reading it may bring others.
const MAX_SOURCES: usize = 128;

/// What just happened. Clones are handles to the same memory.
#[derive(Clone)]
pub struct Recent(Arc<Mutex<Memory>>);

/// A copy of it to render from.
#[derive(Clone)]
pub(super) struct Memory {
    /// When it began.
    pub(super) since: Timestamp,
    /// The last events of each kind, oldest first, in the order of [`KINDS`].
    events: [VecDeque<Arc<Row>>; KINDS.len()],
    /// How many of each kind there were.
    pub(super) counts: [u64; KINDS.len()],
    pub(super) activations: Hours,
    pub(super) probes: Hours,
    /// Activations by product, names of a closed set.
    pub(super) products: BTreeMap<&'static str, u64>,
    pub(super) sources: BTreeMap<Arc<str>, Traffic>,
    /// Requests by how sure it is who asked, in the order of [`Attribution::ALL`].
    pub(super) attributions: [u64; Attribution::ALL.len()],
    next: u64,
}

/// Every kind, in the order of the page.
pub(super) const KINDS: [Kind; 7] = [
    Kind::Activation,
    Kind::Refused,
    Kind::Probe,
    Kind::Dropped,
    Kind::Aborted,
    Kind::ServerStarted,
    Kind::ServerStopped,
];

/// What came from one source class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) activations: u64,
    pub(super) refused: u64,
    pub(super) probes: u64,
    pub(super) dropped: u64,
}

/// An event as the page shows it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    number: u64,
    pub(super) kind: Kind,
    pub(super) time: Option<Timestamp>,
    pub(super) log: Arc<str>,
    pub(super) ip: Option<IpAddr>,
    pub(super) source: Option<Arc<str>>,
    pub(super) attribution: Option<Attribution>,
    /// How many addresses it may have been, where that is not clear.
    pub(super) candidates: usize,
    pub(super) workstation: Option<Text>,
    pub(super) product: Option<Text>,
    pub(super) status: Option<&'static str>,
    pub(super) hresult: Option<u32>,
    pub(super) reason: Option<Text>,
    pub(super) suspect: bool,
    pub(super) dedup: Option<Dedup>,
}

impl Recent {
    /// Nothing yet, at this moment.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Memory {
            since: now,
            events: Default::default(),
            counts: Default::default(),
            activations: Hours::default(),
            probes: Hours::default(),
            products: BTreeMap::new(),
            sources: BTreeMap::new(),
            attributions: Default::default(),
            next: 0,
        })))
    }

    /// Remembers events, and how many of them were activations of which product, out
    /// of a closed set.
    pub fn observe(&self, events: &[Event], products: &Tally<&'static str>, now: Timestamp) {
        if events.is_empty() {
            return;
        }
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.observe(events, now);
        for (product, count) in products.iter() {
            *memory.products.entry(product).or_default() += count;
        }
    }

    /// A copy, so that nobody waits while a page is rendered.
    pub(super) fn read(&self, now: Timestamp) -> Memory {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.activations.forget_before(now);
        memory.probes.forget_before(now);
        memory.clone()
    }
}

impl Memory {
    fn observe(&mut self, events: &[Event], now: Timestamp) {
        self.activations.forget_before(now);
        self.probes.forget_before(now);
        let place = |event: &Event| KINDS.iter().position(|kind| *kind == event.kind);
        // Of each kind, how many are still to come: a row that those push out again
        // is not made.
        let mut left = [0; KINDS.len()];
        for at in events.iter().filter_map(place) {
            if let Some(left) = left.get_mut(at) {
                *left += 1;
            }
        }
        for event in events {
            let Some(at) = place(event) else { continue };
            if let (Some(kept), Some(left)) = (self.events.get_mut(at), left.get_mut(at)) {
                if *left <= MAX_EVENTS {
                    if kept.len() >= MAX_EVENTS {
                        kept.pop_front();
                    }
                    kept.push_back(Arc::new(Row::new(event, self.next)));
                }
                *left -= 1;
                self.next += 1;
            }
            self.count(event, at, now);
        }
    }

    fn count(&mut self, event: &Event, at: usize, now: Timestamp) {
        // What may be forged is shown, and counts nowhere.
        if event.suspect {
            return;
        }
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        let time = event.time.map_or(now, |time| time.at);
        match event.kind {
            Kind::Activation => self.activations.count(time, now),
            Kind::Probe => self.probes.count(time, now),
            _ => {}
        }
        let attribution = Attribution::ALL
            .iter()
            .position(|known| event.attribution == Some(*known));
        if let Some(count) = attribution.and_then(|at| self.attributions.get_mut(at)) {
            *count += 1;
        }
        if let Some(source) = &event.source
            && (self.sources.len() < MAX_SOURCES || self.sources.contains_key(source))
        {
            let traffic = self.sources.entry(Arc::clone(source)).or_default();
            match event.kind {
                Kind::Activation => traffic.activations += 1,
                Kind::Refused => traffic.refused += 1,
                Kind::Probe => traffic.probes += 1,
                Kind::Dropped => traffic.dropped += 1,
                Kind::Aborted | Kind::ServerStarted | Kind::ServerStopped => {}
            }
        }
    }

    /// The last events of this kind or of all, newest first.
    pub(super) fn last(&self, only: Option<Kind>) -> Vec<&Row> {
        let wanted = KINDS
            .iter()
            .zip(&self.events)
            .filter(|(kind, _)| only.is_none_or(|only| only == **kind));
        let mut rows: Vec<&Row> = wanted
            .flat_map(|(_, rows)| rows.iter().map(Arc::as_ref))
            .collect();
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.number));
        rows.truncate(MAX_EVENTS);
        rows
    }
}

impl Row {
    fn new(event: &Event, number: u64) -> Self {
        let request = event.request.as_deref();
        // Clean since the event was made; here for the bound.
        let text = |text: &Text| match text.len() {
            ..=MAX_TEXT => text.clone(),
            _ => clean(text.as_bytes(), MAX_TEXT).into(),
        };
        Self {
            number,
            kind: event.kind,
            time: event.time.map(|time| time.at),
            log: Arc::clone(&event.log),
            ip: event.ip,
            source: event.source.clone(),
            attribution: event.attribution,
            candidates: event.candidates.len(),
            workstation: request.and_then(|r| r.workstation.as_ref()).map(text),
            product: request.and_then(|r| r.product.as_ref()).map(text),
            status: request.and_then(|r| r.status),
            hresult: event.hresult,
            reason: event.reason.as_ref().map(text),
            suspect: event.suspect,
            dedup: event.dedup,
        }
    }
}

/// Counts per hour of the last day, by the hour since 1970.
#[derive(Clone, Debug, Default)]
pub(super) struct Hours(BTreeMap<i64, u64>);

impl Hours {
    /// Counts what happened at `time`. Older than a day is not counted; a server
    /// whose clock is ahead is taken to speak of this hour.
    fn count(&mut self, time: Timestamp, now: Timestamp) {
        let hour = hour(time.min(now));
        if hour > hour_before_first(now) {
            *self.0.entry(hour).or_default() += 1;
        }
    }

    fn forget_before(&mut self, now: Timestamp) {
        let first = hour_before_first(now);
        self.0.retain(|hour, _| *hour > first);
    }

    /// Each hour of the last day with its begin, oldest first.
    pub(super) fn series(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, u64)> {
        (hour_before_first(now) + 1..=hour(now)).map(move |hour| {
            let begin = Timestamp::from_second(hour * HOUR).unwrap_or(now);
            (begin, self.0.get(&hour).copied().unwrap_or(0))
        })
    }
}

fn hour(time: Timestamp) -> i64 {
    time.as_second().div_euclid(HOUR)
}

fn hour_before_first(now: Timestamp) -> i64 {
    hour(now) - i64::try_from(HOURS).unwrap_or(i64::MAX)
}
