//! The sidecar: wires sources, hub and sinks together, and stops them in order.
//!
//! Threads: one for each log (and one more for a stream that is read), one for
//! the hub, one for standard output, and the caller's, which serves HTTP, posts and
//! waits for signals. No thread waits for one that comes later on the way, except a
//! log's for the hub.

mod kept;
mod shared;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::config::{
    Config, ConfigError, FirstRun, Input, InputFormat, Log, Reading, Slack, StartFrom,
};
use crate::follow::{Follower, News, Outlet, Source};
use crate::hub::{DRAIN, Deliveries, Hub, Message, Post, Printer, Reload, product_label};
use crate::line::Class;
use crate::policy::Settings;
use crate::policy::watches::Watches;
use crate::reader::Reader;
use crate::sink::http::{self, Readiness};
use crate::sink::metrics::{Metrics, Setup};
use crate::sink::page::{Page, Recent};
use crate::sink::slack::{Poster, Style};
use crate::source::child::Child;
use crate::source::container::Format;
use crate::source::stream::{Stream, read_stdin};
use crate::source::tail::{Start, Tail, TailOptions};
use crate::source::wake::{Wake, Waker};
use kept::Kept;

pub use kept::dead_letters;

/// Batches on their way to the hub at most, and as many other messages. A log whose
/// batch does not fit waits. One holds the events of up to 256 KiB of log, less than
/// 1 MiB of memory; with several, neither side waits for the other to be given a core.
const INBOX: usize = 4;

/// How long the program waits beyond [`DRAIN`] for its own threads.
const GRACE: Duration = Duration::from_secs(2);

/// Why the sidecar did not start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something that was configured cannot be had.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No dead letters have these numbers.
    #[error("no dead letter {}; `dead-letters list` shows their numbers", listed(.0))]
    NoDeadLetter(Vec<u64>),
    /// The system refused something that has no key.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

fn listed(numbers: &[u64]) -> String {
    let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
    numbers.join(", ")
}

/// What the policy is told by the configuration.
#[must_use]
pub fn settings(reading: &Reading) -> Settings {
    Settings {
        classes: reading.classes.clone(),
        dedup_window: reading.dedup_window,
        post_refused: reading.post_refused,
        post_max_age: reading.post_max_age,
    }
}

/// The same for messages: without a webhook they disturb nobody, so none is too
/// old to be shown.
fn told(config: &Config) -> Settings {
    let mut settings = settings(&config.reading);
    if config.slack.webhook.is_none() {
        settings.post_max_age = Duration::MAX;
    }
    settings
}

/// The source's word for the configuration's.
#[must_use]
pub fn input_format(format: InputFormat) -> Format {
    match format {
        InputFormat::Auto => Format::Auto,
        InputFormat::Plain => Format::Plain,
        InputFormat::Cri => Format::Cri,
        InputFormat::Docker => Format::Docker,
        InputFormat::Syslog => Format::Syslog,
    }
}

/// How messages look.
#[must_use]
pub fn style(slack: &Slack) -> Style {
    Style {
        channel: slack.channel.clone(),
        user_name: slack.username.clone(),
        icon: slack.icon.clone(),
    }
}

/// A poster for the configured webhook; `None` where there is none.
///
/// # Errors
/// The webhook is none, or TLS cannot be set up.
pub fn poster(slack: &Slack) -> Result<Option<Poster>, ConfigError> {
    let Some(secret) = &slack.webhook else {
        return Ok(None);
    };
    let webhook = secret
        .expose()
        .parse()
        .map_err(|error| slack.error(error))?;
    Poster::new(webhook, &slack.roots, slack.timeout)
        .map(Some)
        .map_err(|error| slack.error(error))
}

/// Runs until a signal or the end of its input; returns the code to end with.
/// `reload` reads the configuration anew when SIGHUP comes.
///
/// # Errors
/// Something cannot be had; then nothing was started.
pub async fn run(
    config: Config,
    reload: impl Fn() -> Result<Config, String>,
) -> Result<ExitCode, RunError> {
    let settings = told(&config);
    let style = style(&config.slack);
    let poster = poster(&config.slack)?;
    let listener = http::bind(config.metrics.address)
        .map_err(|error| config.metrics.error(&error))
        .and_then(|listener| {
            tokio::net::TcpListener::from_std(listener).map_err(|e| config.metrics.error(&e))
        })?;
    let address = listener
        .local_addr()
        .map_err(|error| config.metrics.error(&error))?;
    let system = |what| move |error| RunError::System { what, error };
    let mut signals = Signals::new().map_err(system("signal handlers"))?;

    let names: Vec<Arc<str>> = config
        .logs
        .iter()
        .map(|log| Arc::clone(&log.name))
        .collect();
    let mut kept = Kept::open(config.state.as_ref(), &settings, &names)?;
    let metrics = Metrics::new(Setup {
        logs: &names,
        sources: settings.classes.names(),
        line_classes: &Class::ALL.map(Class::as_str),
        product: Box::new(product_label),
        version: env!("CARGO_PKG_VERSION"),
        revision: option_env!("KMS_NOTIFIER_REVISION").unwrap_or("unknown"),
    });
    let readiness = Readiness::new(&names);
    let (to_hub, inbox) = channel(INBOX);
    let (from_logs, news) = channel(INBOX);
    let outlet = |log: &Arc<str>| {
        let hub = from_logs.clone();
        Outlet::new(Arc::clone(log), hub, readiness.clone(), metrics.log(log))
    };
    let logs = Logs::open(&config, &mut kept, outlet)?;
    drop(from_logs);
    if kept.store.is_none() {
        tracing::info!("no --state: positions and unsent messages end with the program");
    }
    tracing::info!(%address, "serving metrics");
    let recent = config.page.then(|| Recent::new(now()));
    let state = http::State {
        metrics: metrics.clone(),
        readiness,
        page: recent.clone().map(Page::new),
    };
    let (stop_http, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(http::serve(listener, state, async {
        // Either way it is time: told so, or nobody is left to tell.
        let _ = stopped.await;
    }));

    let (deliveries, poster) = match poster {
        Some(poster) => {
            // One under way and one on its way there: the hub never has more.
            let (posts, due) = channel(2);
            let (poster, current) = watch::channel(Arc::new(poster));
            tokio::spawn(post(due, current, to_hub.clone()));
            (Deliveries::Poster(posts), Some(poster))
        }
        None => {
            tracing::info!("no webhook is configured; messages go to this log");
            (Deliveries::Log, None)
        }
    };
    if let Some(state) = &config.state {
        kept::listen(state, &to_hub);
    }
    let shared = shared::share(&config, &mut kept.policy, &to_hub)?;
    let mut watches = Watches::new(&names, config.silence_after, now());
    watches.restore(kept.watches, config.silence_after, now());
    let printer = Printer::start(io::BufWriter::with_capacity(64 * 1024, io::stdout()));
    let hub = Hub {
        policy: kept.policy,
        printer: printer.map_err(system("a thread for standard output"))?,
        metrics,
        recent,
        deliveries,
        style,
        logs: names.len(),
        watches,
        store: kept.store,
        // Its name is to be on the disk before it claims anything.
        unsaved: shared.is_some(),
        stream_unsaved: None,
        shared,
    };
    let hub = spawn_hub(hub, inbox, news).map_err(system("the hub's thread"))?;
    let running = logs.start().map_err(system("a log's thread"))?;

    let outcome = supervise(&running, &mut signals, hub, poster, &to_hub, &reload).await;
    let _ = stop_http.send(());
    let _ = tokio::time::timeout(GRACE, server).await;
    if let Err(error) = outcome {
        if error.kind() != io::ErrorKind::BrokenPipe {
            tracing::error!("standard output: {error}");
            running.terminate(rustix::process::Signal::TERM);
            return Ok(ExitCode::FAILURE);
        }
        // Whoever read the events has enough of them: a quiet end.
        running.terminate(rustix::process::Signal::TERM);
    }
    Ok(running.exit_code())
}

/// Waits for the hub to end by itself, handling signals meanwhile.
async fn supervise(
    running: &Running,
    signals: &mut Signals,
    mut hub: oneshot::Receiver<io::Result<()>>,
    poster: Option<watch::Sender<Arc<Poster>>>,
    to_hub: &Sender<Message>,
    reload: &impl Fn() -> Result<Config, String>,
) -> io::Result<()> {
    let mut deadline: Option<Instant> = None;
    // A hub that is held up takes it later, and only the newest of several.
    let mut reread: Option<Box<Reload>> = None;
    loop {
        let last_call = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = &mut hub => {
                return ended.unwrap_or_else(|_| Err(io::Error::other("the hub's thread is gone")));
            }
            () = last_call => {
                tracing::warn!("stopped at the deadline");
                if running.child.is_some() {
                    running.forward(rustix::process::Signal::KILL);
                    // Its end is that of its log, and of the hub after that.
                    let _ = tokio::time::timeout(GRACE, hub).await;
                }
                return Ok(());
            }
            room = to_hub.reserve(), if reread.is_some() => {
                if let (Ok(room), Some(reload)) = (room, reread.take()) {
                    room.send(Message::Reload(reload));
                    tracing::info!("the configuration was read again");
                }
            }
            signal = signals.next() => match signal {
                Asked::Reload => {
                    running.forward(rustix::process::Signal::HUP);
                    reread = reloaded(reload(), poster.as_ref()).or(reread);
                }
                Asked::Stop(signal) => {
                    if deadline.is_none() {
                        tracing::info!("stopping");
                        deadline = Some(Instant::now() + DRAIN + GRACE);
                    }
                    running.terminate(signal);
                }
            }
        }
    }
}

/// Takes over what may change while running: the webhook here, and what is returned
/// in the hub (classes, window, style, after how long silence is told).
fn reloaded(
    config: Result<Config, String>,
    poster: Option<&watch::Sender<Arc<Poster>>>,
) -> Option<Box<Reload>> {
    let new = config.and_then(|config| {
        let style = style(&config.slack);
        let webhook = self::poster(&config.slack).map_err(|error| error.to_string())?;
        let reload = Reload {
            settings: told(&config),
            style,
            silence_after: config.silence_after,
        };
        Ok((reload, webhook))
    });
    match new {
        Ok((reload, webhook)) => {
            match (poster, webhook) {
                (Some(current), Some(webhook)) => {
                    current.send_replace(Arc::new(webhook));
                }
                (None, None) => {}
                _ => tracing::warn!(
                    "a webhook that comes or goes needs a restart; the rest is taken over"
                ),
            }
            Some(Box::new(reload))
        }
        Err(error) => {
            tracing::error!("the configuration stays as it was: {error}");
            None
        }
    }
}

/// Posts one message after the other, and says what became of each.
async fn post(
    mut due: Receiver<Post>,
    poster: watch::Receiver<Arc<Poster>>,
    to_hub: Sender<Message>,
) {
    while let Some(Post { id, body, style }) = due.recv().await {
        let poster = Arc::clone(&poster.borrow());
        let begun = Instant::now();
        let payload = crate::sink::slack::render(&body, now(), &style);
        let posted = poster.post(&payload, now()).await;
        if to_hub
            .send(Message::Posted(id, posted, begun.elapsed()))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// The hub on a thread of its own, where saving the state holds up nothing that is
/// asked from outside.
fn spawn_hub(
    hub: Hub,
    inbox: Receiver<Message>,
    news: Receiver<News>,
) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("hub".into())
        .spawn(move || {
            // Nobody waits for the end any more if the deadline is over.
            let _ = ended.send(runtime.block_on(hub.run(inbox, news)));
        })?;
    Ok(end)
}

/// Every log opened, none of them read yet.
struct Logs {
    followers: Vec<Follower>,
    wakers: Vec<Waker>,
    child: Option<Child>,
}

impl Logs {
    fn open(
        config: &Config,
        kept: &mut Kept,
        outlet: impl Fn(&Arc<str>) -> Outlet,
    ) -> Result<Self, RunError> {
        let mut logs = Self {
            followers: Vec::new(),
            wakers: Vec::new(),
            child: None,
        };
        // The child last: if anything else cannot be had, it was never started.
        let (children, others): (Vec<&Log>, Vec<&Log>) = config
            .logs
            .iter()
            .partition(|log| matches!(log.input, Input::Child(..)));
        for log in others.into_iter().chain(children) {
            let outlet = outlet(&log.name);
            let mut wake = Wake::new();
            let waker = wake.waker();
            let saved = kept.logs.remove(&*log.name);
            let saved = saved.filter(|_| config.from == StartFrom::Resume);
            if saved.is_none() {
                // Read from elsewhere, old events are events.
                kept.policy.handle_position(&log.name);
            }
            let source = match &log.input {
                Input::File(path) => {
                    wake.follow(path);
                    let start = match (config.from, &saved, config.first_run) {
                        (StartFrom::Resume, Some(saved), _) => Start::At(saved.marks.clone()),
                        (StartFrom::Start, ..) | (StartFrom::Resume, None, FirstRun::Start) => {
                            Start::Beginning
                        }
                        (StartFrom::End, ..) | (StartFrom::Resume, None, FirstRun::End) => {
                            Start::End
                        }
                    };
                    let options = TailOptions {
                        start,
                        max_line: config.reading.max_line,
                        rotated: config.rotated.clone(),
                        rotate: config.rotate,
                        ..TailOptions::new(path.clone())
                    };
                    let tail = Tail::open(options)
                        .map_err(|error| ConfigError::line(format!("log {}: {error}", log.name)))?;
                    Source::File(Box::new(tail))
                }
                Input::Stdin => {
                    let what = "a thread for standard input";
                    read_stdin(waker.clone()).map_err(|error| RunError::System { what, error })?;
                    Source::Stdin(Stream::new(config.reading.max_line))
                }
                Input::Child(program, args) => {
                    let child = Child::spawn(program, args, &waker)
                        .map_err(|error| ConfigError::line(error.to_string()))?;
                    logs.child = Some(child.clone());
                    Source::Child(Stream::new(config.reading.max_line), child)
                }
            };
            let mut reader = Reader::new(
                Arc::clone(&log.name),
                config.reading.timezone.clone(),
                input_format(config.reading.input_format),
                config.reading.max_line,
            );
            let dropped = saved.map_or(0, |saved| reader.restore(&saved.unfinished));
            let mut follower = Follower::new(outlet, source, wake, reader);
            if kept.store.is_some() {
                follower.keep_positions(dropped);
                if matches!(log.input, Input::File(_)) {
                    kept.policy.follow(Arc::clone(&log.name));
                }
            }
            if logs.child.is_some() {
                // It comes last: when the server is gone, all others end, too.
                follower.ends(logs.wakers.clone());
            } else {
                logs.wakers.push(waker);
            }
            logs.followers.push(follower);
        }
        Ok(logs)
    }

    fn start(self) -> io::Result<Running> {
        for follower in self.followers {
            let thread = std::thread::Builder::new().name("log".into());
            thread.spawn(move || follower.run())?;
        }
        Ok(Running {
            wakers: self.wakers,
            child: self.child,
        })
    }
}

/// The logs that are followed. Their threads need no joining: the hub says when
/// the last has ended.
struct Running {
    /// Of the logs that do not end by themselves.
    wakers: Vec<Waker>,
    child: Option<Child>,
}

impl Running {
    /// Asks for an end: of the reading, and of the server if one was started. Its
    /// log ends by itself, with what it still has to say.
    fn terminate(&self, signal: rustix::process::Signal) {
        self.forward(signal);
        for waker in &self.wakers {
            waker.stop();
        }
    }

    fn forward(&self, signal: rustix::process::Signal) {
        if let Some(child) = &self.child
            && let Err(error) = child.signal(signal)
        {
            tracing::warn!("the child did not get its signal: {error}");
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self.child.as_ref().and_then(Child::exit) {
            Some(exit) => ExitCode::from(exit.code()),
            None => ExitCode::SUCCESS,
        }
    }
}

/// What a signal asks for.
enum Asked {
    Reload,
    Stop(rustix::process::Signal),
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// Never waited for: where a file may not grow, its write is to fail like any
    /// other instead of ending the program.
    _too_large: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _too_large: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.terminate.recv() => Asked::Stop(rustix::process::Signal::TERM),
            _ = self.interrupt.recv() => Asked::Stop(rustix::process::Signal::INT),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an edge: how late a message is and when it may be tried again"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

/// Why the test message was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// Something in the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Slack, or the way there.
    #[error("the message was not accepted: {0}")]
    Refused(String),
}

/// Sends one message now.
///
/// # Errors
/// It was not accepted.
pub async fn test_notify(config: &Config) -> Result<(), TestError> {
    let style = style(&config.slack);
    let Some(poster) = poster(&config.slack)? else {
        return Err(TestError::Refused("there is no webhook".into()));
    };
    let payload = crate::sink::slack::render_test(&style);
    let posted = poster.post(&payload, now()).await;
    match posted.problem {
        None => Ok(()),
        Some(problem) => Err(TestError::Refused(problem)),
    }
}
