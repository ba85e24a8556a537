//! What is told: values that own all a sink needs to render them.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::{Attribution, Event, EventId, EventTime, Kind, StatusName, Text};

/// How many rows a digest lists; it counts the rest.
pub const MAX_ROWS: usize = 40;

/// How many candidates of an ambiguous event a message keeps.
const MAX_CANDIDATES: usize = 16;

/// An attempt's number; an outcome names the attempt that it is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryId(pub(super) u64);

/// A message to post now.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// To be handed back with the outcome.
    pub id: DeliveryId,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug)]
pub enum Body {
    /// One event, and how many like it.
    Notice(Box<Notice>),
    /// Many at once, because the rate was exceeded or they had waited too long.
    Digest(Digest),
    /// Something about the notifier itself.
    Alert(Alert),
}

/// Something that whoever runs the notifier should know, in its own words: no
/// text of a client is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// What happened, in a few words.
    pub title: Box<str>,
    /// What it means and what to do, in a sentence or two.
    pub text: Box<str>,
}

/// One event that is told, with what is known of others of its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The event that the message was made for.
    pub event: EventId,
    /// `activation` or `refused`.
    pub kind: Kind,
    /// When it happened, where the log tells.
    pub time: Option<EventTime>,
    /// The client's address; where ambiguous the most likely one.
    pub ip: Option<IpAddr>,
    /// The class of `ip`.
    pub source: Option<Arc<str>>,
    /// How sure `ip` is.
    pub attribution: Option<Attribution>,
    /// Where ambiguous: the first 16 addresses it may have been.
    pub candidates: Vec<IpAddr>,
    /// Addresses beyond those.
    pub more_candidates: usize,
    /// What the client calls itself. Client-controlled.
    pub workstation: Option<Text>,
    /// What was asked for; absent where the log does not show it.
    pub product: Option<Text>,
    /// What was asked for as far as the catalogue knows it, or that a relay could
    /// not see it. Not stored: after a restart the name has to do.
    #[serde(skip)]
    pub label: Option<&'static str>,
    /// Licensing status before the request.
    #[serde(with = "crate::event::status_name")]
    pub status: Option<StatusName>,
    /// Refusals: the code.
    pub hresult: Option<u32>,
    /// Refusals: the log's words for it.
    pub reason: Option<Text>,
    /// Events told by this message: 1, and those that joined while it waited.
    pub count: u64,
    /// Events of the same client and product that were muted since it was last
    /// told.
    pub repeats: u64,
}

impl Notice {
    pub(super) fn new(event: &Event, repeats: u64) -> Self {
        let request = event.request.as_deref();
        Self {
            event: event.id,
            kind: event.kind,
            time: event.time,
            ip: event.ip,
            source: event.source.clone(),
            attribution: event.attribution,
            candidates: event
                .candidates
                .iter()
                .copied()
                .take(MAX_CANDIDATES)
                .collect(),
            more_candidates: event.candidates.len().saturating_sub(MAX_CANDIDATES),
            workstation: request.and_then(|request| request.workstation.clone()),
            product: request.and_then(|request| request.product.clone()),
            label: event.product_label(),
            status: request.and_then(|request| request.status),
            hresult: event.hresult,
            reason: event.reason.clone(),
            count: 1,
            repeats,
        }
    }
}

/// Several messages folded into one.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    /// The first [`MAX_ROWS`] clients and products, oldest first: each its first
    /// event, with the count of all of them.
    pub rows: Vec<Notice>,
    /// Clients and products that are not listed.
    pub more_rows: usize,
    /// Events of those.
    pub more_events: u64,
    /// Further events that came while the queue was full.
    pub overflow: u64,
    /// When the oldest event happened, where the log tells.
    pub since: Option<EventTime>,
}

impl Digest {
    /// All events that the digest stands for.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.rows.iter().map(|row| row.count).sum::<u64>() + self.more_events + self.overflow
    }
}
