//! Where the logs meet: decides about every event and tells it to every sink.
//!
//! One task owns the policy, so nothing here is shared or locked. It never waits
//! for Slack: a message that is due is handed to the poster, and what became of
//! it comes back as one more message.
//!
//! With a state, what was decided is on the disk before a message about it
//! leaves, and what became of that message before the next one does: a kill
//! loses nothing, and repeats one message at most. Where a log stands is saved
//! about once a second, in the same transactions; the events in between are
//! known when they are read again.
//!
//! With a shared dedup store, a message leaves only after the store or its
//! silence allowed it ([`Shared`]).

mod shared;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use self::shared::Shared;
use crate::dedup_store::{Answer, StoreError};
use crate::event::{Event, Kind};
use crate::follow::Batch;
use crate::line::Class;
use crate::policy::watches::Watches;
use crate::policy::{
    Alert, Body, Counters, Delivery, DeliveryId, Outcome, Policy, Settings, Settled,
};
use crate::sink::http::Readiness;
use crate::sink::metrics::{Evicted, Metrics, Outcome as Told, Sink};
use crate::sink::page::Recent;
use crate::sink::slack::{Posted, Style, render};
use crate::sink::state::control::{self, Reply, Request};
use crate::sink::state::{Saved, Store};
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
    /// The log of this name ended; nothing more comes from it.
    LogEnded(Arc<str>),
    /// A delivery came to something.
    Posted(DeliveryId, Posted, Duration),
    /// The configuration was read again.
    Reload(Box<Reload>),
    /// Somebody asks about dead letters.
    Control(Request, oneshot::Sender<Reply>),
    /// What the shared dedup store said to the last batch.
    Answers(Result<Vec<Answer>, StoreError>),
}

/// What a configuration that was read again changes.
#[derive(Debug)]
pub struct Reload {
    /// Classes, window, and what is told.
    pub settings: Settings,
    /// How messages look.
    pub style: Style,
    /// After how long silence is told; none: never.
    pub silence_after: Option<Duration>,
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
    /// What the status page remembers, if there is one.
    pub recent: Option<Recent>,
    /// How the logs are doing, for `/readyz`.
    pub readiness: Readiness,
    /// Where messages go.
    pub deliveries: Deliveries,
    /// How they look.
    pub style: Style,
    /// How many logs are followed.
    pub logs: usize,
    /// Whether each of them is heard of and understood.
    pub watches: Watches,
    /// Where the state is kept, if it is.
    pub store: Option<Store>,
    /// The agreement with other sidecars, if there is one.
    pub shared: Option<Shared>,
    /// Whether something happened that is to be saved now.
    pub unsaved: bool,
}

impl<W: Write> Hub<W> {
    /// Runs until every log has ended and what waited was told, or for
    /// [`DRAIN`] after that.
    ///
    /// # Errors
    /// The reader of standard output is gone (broken pipe).
    pub async fn run(mut self, inbox: Receiver<Message>) -> io::Result<()> {
        self.count_set_aside(0);
        for log in self.watches.silent() {
            self.metrics.log(log).set_silent(true);
        }
        self.follow(inbox).await?;
        self.save();
        Ok(())
    }

    async fn follow(&mut self, mut inbox: Receiver<Message>) -> io::Result<()> {
        let mut deadline = None;
        let mut counted = Counters::default();
        loop {
            if self.unsaved || self.until_retry() == Some(Duration::ZERO) {
                self.save();
            }
            self.watch();
            self.share();
            self.deliver();
            counted = self.count_policy(counted);
            if self.logs == 0 && deadline.is_none() {
                self.policy.start_draining();
                deadline = Some(Instant::now() + DRAIN);
                continue;
            }
            let has_news = self.shared.as_ref().is_some_and(Shared::has_news);
            if self.logs == 0 && self.policy.is_empty() && !has_news {
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
                    if self.store.is_some() {
                        tracing::info!(unsent, "stopping; what was not told yet is told after the next start");
                    } else {
                        tracing::warn!(unsent, "stopped before everything was told");
                    }
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
            Message::LogEnded(log) => {
                self.logs = self.logs.saturating_sub(1);
                self.watches.handle_end(&log);
            }
            Message::Posted(id, posted, took) => {
                self.metrics.notification_took(took);
                self.settled(id, &posted);
            }
            Message::Reload(new) => {
                let Reload {
                    settings,
                    style,
                    silence_after,
                } = *new;
                if let Some(shared) = &mut self.shared {
                    shared.set_window(settings.dedup_window);
                }
                self.policy.reload(settings);
                self.style = style;
                self.watches.set_silence_after(silence_after);
                self.metrics.sources(self.policy.classes().names());
            }
            Message::Control(request, reply) => {
                let answer = control::answer(&request, &mut self.policy, now());
                self.save();
                // Who asked may have lost patience.
                let _ = reply.send(answer);
            }
            Message::Answers(answers) => {
                if let Some(shared) = &mut self.shared {
                    shared.handle_answers(answers, monotonic());
                    self.metrics.dedup_store_up(shared.is_up());
                }
            }
        }
        Ok(())
    }

    /// Tells what is to be said of the logs themselves.
    fn watch(&mut self) {
        while let Some(watched) = self.watches.poll(now()) {
            tracing::warn!("{}: {}", watched.alert.title, watched.alert.text);
            if let Some(silent) = watched.silent {
                self.metrics.log(&watched.log).set_silent(silent);
            }
            self.policy.handle_alert(watched.alert);
            self.keep_watch(&watched.log);
        }
    }

    /// What was told of a log is saved with the message about it.
    fn keep_watch(&mut self, log: &Arc<str>) {
        if let (Some(store), Some(watch)) = (&mut self.store, self.watches.encode(log)) {
            store.handle_watch(Arc::clone(log), watch);
            self.unsaved = true;
        }
    }

    /// Writes what changed since the last save.
    fn save(&mut self) {
        self.unsaved = false;
        let Some(store) = &mut self.store else { return };
        let begun = Instant::now();
        let before = store.set_aside_count();
        let saved = store.save(&mut self.policy, now());
        if saved != Saved::Nothing {
            let written = saved == Saved::Written;
            self.metrics
                .state_saved(written, begun.elapsed(), store.size());
        }
        self.count_set_aside(before);
    }

    /// Counts states that were set aside since there were so many, and tells.
    fn count_set_aside(&mut self, before: u64) {
        let count = self.store.as_ref().map_or(0, Store::set_aside_count);
        if count > before {
            self.metrics.state_set_aside(count - before);
            self.policy.handle_alert(Alert {
                title: "KMS notifier: its state was unreadable".into(),
                text: "It was set aside and a new one begun: what was told before may be told \
                       again, and what was not told yet is lost. The notifier's log says more."
                    .into(),
            });
        }
    }

    fn batch(&mut self, mut batch: Batch) -> io::Result<()> {
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
        self.readiness.set(&batch.log, batch.state);
        // Whoever sees an event finds it counted, and a position behind an event
        // is stored only after that was printed.
        stdout::print(&mut self.out, &batch.events)?;
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
        // A stream cannot be read again.
        self.unsaved |= !batch.read_again && self.store.is_some() && self.policy.has_changed();
        Ok(())
    }

    /// Hands over every message that is due now.
    fn deliver(&mut self) {
        while self.policy.is_due(now()) {
            self.save();
            let Some(Delivery { id, body }) = self.policy.poll_delivery(now()) else {
                break;
            };
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
        self.metrics
            .dead_letters(self.policy.dead_letters().count() as u64);
    }

    fn settled(&mut self, id: DeliveryId, posted: &Posted) {
        self.unsaved = true;
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
            Some(Settled::Unheard(Alert { title, text })) => {
                self.metrics.notification(sink, Told::Failed);
                tracing::error!("an alert was refused for good ({problem}): {title}: {text}");
            }
            None => tracing::warn!("an outcome came for a message that is not under way"),
        }
    }

    /// Counts what the policy gave up since it was last looked at.
    fn count_policy(&self, before: Counters) -> Counters {
        let counters = self.policy.counters();
        let (outbox, outbox_before) = (counters.outbox, before.outbox);
        for (what, now, before) in [
            (
                Evicted::DedupKey,
                counters.evicted_keys,
                before.evicted_keys,
            ),
            (
                Evicted::KnownEvent,
                counters.forgotten_events,
                before.forgotten_events,
            ),
            (
                Evicted::Message,
                outbox.overflowed,
                outbox_before.overflowed,
            ),
            (
                Evicted::Alert,
                outbox.evicted_alerts,
                outbox_before.evicted_alerts,
            ),
            (
                Evicted::DeadLetter,
                outbox.evicted_dead,
                outbox_before.evicted_dead,
            ),
        ] {
            self.metrics.evicted(what, now.saturating_sub(before));
        }
        counters
    }

    /// How long nothing is to be done by itself; for ever if none.
    fn until_due(&self) -> Option<Duration> {
        let delivery = self.policy.next_due().map(until);
        let watched = self.watches.next_due().map(until);
        let shared = self.shared.as_ref().map(Shared::next_due);
        delivery
            .into_iter()
            .chain(watched)
            .chain(shared.map(|due| due.saturating_duration_since(monotonic())))
            .chain(self.until_retry())
            .min()
    }

    fn until_retry(&self) -> Option<Duration> {
        self.store.as_ref()?.retry_at().map(until)
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now())).unwrap_or_default()
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

fn monotonic() -> std::time::Instant {
    Instant::now().into_std()
}

/// The metrics label of an event's product: a name that the catalogue knows for
/// its id, or one for what the relay could not see.
#[must_use]
pub fn product_label(event: &Event) -> &'static str {
    event.product_label().unwrap_or("unknown")
}
