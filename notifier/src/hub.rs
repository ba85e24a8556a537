//! Where the logs meet: decides about every event and tells it to every sink.
//!
//! One task owns the policy, so nothing here is shared or locked. It never waits
//! for Slack: a message that is due is handed to the poster, and what became of
//! it comes back as one more message.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::Instant;

use crate::event::Event;
use crate::follow::Batch;
use crate::line::Class;
use crate::policy::{Body, Delivery, DeliveryId, Outcome, Policy, Settings, Settled};
use crate::sink::http::Readiness;
use crate::sink::metrics::{Evicted, Metrics, Outcome as Told, Sink};
use crate::sink::slack::{Posted, Style, render};
use crate::sink::stdout;

/// How long what waits may still be told once everything else has stopped.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Most messages between two looks at what is due.
const BURST: usize = 64;

/// What the hub is told.
#[derive(Debug)]
pub enum Message {
    /// A log brought something.
    Batch(Box<Batch>),
    /// A log ended; nothing more comes from it.
    LogEnded,
    /// A delivery came to something.
    Posted(DeliveryId, Posted, Duration),
    /// New classes, window and style, from a re-read configuration.
    Reload(Box<(Settings, Style)>),
}

/// A message on its way to the poster.
#[derive(Debug)]
pub struct Post {
    /// What to name it by when it comes back.
    pub id: DeliveryId,
    /// What to tell.
    pub body: Body,
    /// How.
    pub style: Style,
}

/// Where messages go.
#[derive(Debug)]
pub enum Deliveries {
    /// To the task that posts them.
    Poster(Sender<Post>),
    /// To the program's own log, which accepts everything.
    Log,
}

/// The hub's parts.
pub struct Hub<W> {
    /// Decides.
    pub policy: Policy,
    /// Where events are printed.
    pub out: W,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// How the logs are doing, for `/readyz`.
    pub readiness: Readiness,
    /// Where messages go.
    pub deliveries: Deliveries,
    /// How they look.
    pub style: Style,
    /// How many logs are followed.
    pub logs: usize,
}

impl<W: Write> Hub<W> {
    /// Runs until every log has ended and what waited was told, or for
    /// [`DRAIN`] after that.
    ///
    /// # Errors
    /// The reader of standard output is gone (broken pipe).
    pub async fn run(mut self, mut inbox: Receiver<Message>) -> io::Result<()> {
        let mut deadline = None;
        let mut evicted = 0;
        loop {
            self.deliver();
            evicted = self.count_policy(evicted);
            if self.logs == 0 && deadline.is_none() {
                self.policy.start_draining();
                deadline = Some(Instant::now() + DRAIN);
                continue;
            }
            if self.logs == 0 && self.policy.is_empty() {
                return Ok(());
            }
            let due = self.until_due();
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(message) => self.handle(message)?,
                    None => return Ok(()),
                },
                () = sleep_until(deadline) => {
                    let unsent = self.policy.unsent_events();
                    tracing::warn!(unsent, "stopped before everything was told");
                    return Ok(());
                }
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
            }
            for _ in 0..BURST {
                match inbox.try_recv() {
                    Ok(message) => self.handle(message)?,
                    Err(_) => break,
                }
            }
        }
    }

    fn handle(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::Batch(batch) => self.batch(*batch)?,
            Message::LogEnded => self.logs = self.logs.saturating_sub(1),
            Message::Posted(id, posted, took) => {
                self.metrics.notification_took(took);
                self.settled(id, &posted);
            }
            Message::Reload(new) => {
                let (settings, style) = *new;
                self.policy.reload(settings);
                self.style = style;
                self.metrics.sources(self.policy.classes().names());
            }
        }
        Ok(())
    }

    fn batch(&mut self, mut batch: Batch) -> io::Result<()> {
        let now = now();
        let log = self.metrics.log(&batch.log);
        for event in &mut batch.events {
            self.policy.handle_event(event, now);
            self.metrics.observe(event);
        }
        for (class, lines) in Class::ALL.iter().zip(batch.counters.lines) {
            log.lines(class.as_str(), lines);
        }
        log.suspect_lines(batch.counters.suspect);
        log.bytes(batch.bytes);
        log.set_lag(batch.lag);
        if let Some(at) = batch.read_at {
            log.last_line(at);
        }
        for (kind, times) in [
            (crate::source::Rotation::Rename, batch.traffic.renames),
            (crate::source::Rotation::Truncate, batch.traffic.truncations),
        ] {
            for _ in 0..times {
                log.rotation(kind);
            }
        }
        self.metrics.evicted(Evicted::CutLine, batch.traffic.cut);
        self.metrics
            .evicted(Evicted::Connection, batch.counters.evicted_connections);
        self.metrics
            .evicted(Evicted::Block, batch.counters.evicted_blocks);
        self.metrics
            .evicted(Evicted::WaitingEvent, batch.counters.evicted_requests);
        self.readiness.set(&batch.log, batch.state);
        // Last: whoever sees an event finds it counted.
        stdout::print(&mut self.out, &batch.events)
    }

    /// Hands over every message that is due now.
    fn deliver(&mut self) {
        while let Some(Delivery { id, body }) = self.policy.poll_delivery(now()) {
            match &self.deliveries {
                Deliveries::Poster(poster) => {
                    let post = Post {
                        id,
                        body,
                        style: self.style.clone(),
                    };
                    if let Err(refused) = poster.try_send(post) {
                        // The poster is gone, or has not taken the last one yet.
                        let problem = Some(format!("the poster took nothing: {refused}"));
                        self.settled(
                            id,
                            &Posted {
                                outcome: Outcome::Retry,
                                problem,
                            },
                        );
                    }
                }
                Deliveries::Log => {
                    let message = render(&body, now(), &self.style);
                    tracing::info!("no webhook; would post: {message}");
                    self.settled(
                        id,
                        &Posted {
                            outcome: Outcome::Accepted,
                            problem: None,
                        },
                    );
                }
            }
        }
        self.metrics.outbox(self.policy.len() as u64);
    }

    fn settled(&mut self, id: DeliveryId, posted: &Posted) {
        let sink = match self.deliveries {
            Deliveries::Poster(_) => Sink::Slack,
            Deliveries::Log => Sink::Log,
        };
        let problem = posted.problem.as_deref().unwrap_or("no reason given");
        match self.policy.handle_outcome(id, posted.outcome, now()) {
            Some(Settled::Told { .. }) => self.metrics.notification(sink, Told::Accepted),
            Some(Settled::Again { at }) => {
                self.metrics.notification(sink, Told::Retried);
                tracing::warn!(%at, "a message was not taken, trying again: {problem}");
            }
            Some(Settled::Dropped { events }) => {
                self.metrics.notification(sink, Told::Failed);
                tracing::error!(events, "a message was refused for good: {problem}");
            }
            None => tracing::warn!("an outcome came for a message that is not under way"),
        }
    }

    /// Counts what the policy gave up since it was last looked at.
    fn count_policy(&self, before: u64) -> u64 {
        let evicted = self.policy.counters().evicted_keys;
        self.metrics
            .evicted(Evicted::DedupKey, evicted.saturating_sub(before));
        evicted
    }

    fn until_due(&self) -> Option<Duration> {
        let due = self.policy.next_due()?;
        Some(Duration::try_from(due.duration_since(now())).unwrap_or_default())
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the hub's loop is an edge: it gives the policy its time"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

/// The metrics label of an event's product: a name that the catalogue knows for
/// its id, or one for what the relay could not see.
#[must_use]
pub fn product_label(event: &Event) -> &'static str {
    let Some(request) = event.request.as_deref() else {
        return "unknown";
    };
    if request.protected {
        return "protected";
    }
    kms_core::catalog::label(request.product.as_deref(), request.activation_id).unwrap_or("unknown")
}

/// Names of the source classes, for metrics.
#[must_use]
pub fn class_names(settings: &Settings) -> Vec<Arc<str>> {
    settings.classes.names().to_vec()
}
