//! The connections, each a task, and what they share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{CallError, ClientError, Connection, connect};
use crate::hresult::HResult;
use crate::lab::LabSuite;
use crate::message::{BaseRequest, MessageError, NAME_UNITS, WorkstationName, envelope};
use crate::stub::{Encoding, Reply};

use super::record::Times;
use super::schedule::Due;
use super::{Failure, Outcomes, Report, Schedule, Settings};

/// How many connections are opened at once: what a listener's backlog takes, so
/// that none waits for the kernel's second attempt after a second.
const OPENING: usize = 64;

/// After so many failures to connect in a row, a connection is given up.
const ATTEMPTS: u32 = 3;

/// How far a load is, for a progress bar.
#[derive(Debug, Default)]
pub struct Progress {
    open: AtomicU64,
    done: AtomicU64,
}

impl Progress {
    /// Connections opened so far.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Requests that ended so far, whichever way.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// A load, before, while and after it runs.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    opening: Semaphore,
    progress: Progress,
    probes_begun: AtomicU64,
    state: Mutex<State>,
}

struct State {
    schedule: Schedule,
    outcomes: Outcomes,
    first_failure: Option<String>,
    latency: Times,
    from_sending: Times,
    started: Option<Instant>,
    last: Option<Instant>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("outcomes", &self.outcomes)
            .finish_non_exhaustive()
    }
}

/// What a host said to one request.
enum Said {
    Answered,
    Refused(HResult),
}

/// Why it said nothing that counts.
enum Silent {
    Call(CallError),
    Seal(MessageError),
}

impl Load {
    /// Nothing is opened yet.
    ///
    /// # Errors
    /// [`MessageError::Version`], for a request that cannot be sealed.
    pub fn new(settings: Settings) -> Result<Self, MessageError> {
        Machine::new(&settings, 0)?;
        let schedule = Schedule::new(settings.requests, settings.duration, settings.rate);
        Ok(Self {
            shared: Arc::new(Shared {
                settings,
                opening: Semaphore::new(OPENING),
                progress: Progress::default(),
                probes_begun: AtomicU64::new(0),
                state: Mutex::new(State {
                    schedule,
                    outcomes: Outcomes::default(),
                    first_failure: None,
                    latency: Times::new(),
                    from_sending: Times::new(),
                    started: None,
                    last: None,
                }),
            }),
        })
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.shared.progress
    }

    /// Opens all connections, then asks, then holds. Dropping the future ends it;
    /// [`Load::report`] says how far it came.
    pub async fn run(&self) {
        let shared = &self.shared;
        let settings = &shared.settings;
        let mut opened = Vec::with_capacity(settings.connections);
        if settings.reconnect {
            opened.resize_with(settings.connections, || None);
        } else {
            let mut opening = JoinSet::new();
            for index in 0..settings.connections {
                let shared = Arc::clone(shared);
                opening.spawn(async move { shared.try_open(index).await });
            }
            opened.extend(opening.join_all().await);
        }
        let start = Instant::now();
        shared.state().started = Some(start);
        let mut tasks = JoinSet::new();
        for (index, connection) in opened.into_iter().enumerate() {
            let client = Client {
                shared: Arc::clone(shared),
                index,
                connection,
                checked: false,
                failures: 0,
            };
            tasks.spawn(client.run(start));
        }
        let probers = usize::try_from(settings.probes).unwrap_or(usize::MAX);
        for index in 0..probers.min(settings.connections.max(1)) {
            let shared = Arc::clone(shared);
            tasks.spawn(async move { shared.probe(index).await });
        }
        tasks.join_all().await;
    }

    /// What it came to, so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.shared.state();
        let elapsed = state.started.zip(state.last);
        Report {
            opened: self.shared.progress.open(),
            outcomes: state.outcomes.clone(),
            first_failure: state.first_failure.clone(),
            elapsed: elapsed.map_or(Duration::ZERO, |(start, last)| last - start),
            latency: state.latency.sum_up(),
            from_sending: state.from_sending.sum_up(),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Counters are whole whenever the lock is free.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn from(&self, index: usize) -> Option<IpAddr> {
        let from = &self.settings.from;
        from.get(index.checked_rem(from.len())?).copied()
    }

    async fn open(&self, index: usize) -> Result<Open, CallError> {
        let Settings {
            to, within, offer, ..
        } = self.settings;
        let connecting = async {
            // The semaphore is never closed.
            let _permit = self.opening.acquire().await.ok();
            let stream = connect(to, self.from(index), within).await?;
            let mut connection = Connection::new(stream, within);
            connection.bind(offer).await?;
            Ok::<_, CallError>(connection)
        };
        let connection = connecting.await?;
        let wanted = self.settings.encoding;
        let encoding = wanted.or_else(|| connection.association().preferred());
        // Something was bound, or there were an error; the call says what is not.
        let encoding = encoding.unwrap_or(Encoding::Ndr32);
        self.progress.open.fetch_add(1, Ordering::Relaxed);
        Ok(Open {
            connection,
            encoding,
        })
    }

    async fn try_open(&self, index: usize) -> Option<Open> {
        let opened = self.open(index).await;
        opened
            .inspect_err(|error| self.state().fail(Failure::of(error), error))
            .ok()
    }

    fn take(&self, start: Instant) -> Option<Due> {
        self.state().schedule.take(start.elapsed())
    }

    fn record(&self, said: Result<Said, Silent>, due: Instant, sent: Instant) {
        let now = Instant::now();
        self.progress.done.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        state.last = Some(now);
        match said {
            Ok(said) => {
                state.latency.record(now - due);
                if self.settings.rate.is_some() {
                    state.from_sending.record(now - sent);
                }
                match said {
                    Said::Answered => state.outcomes.answered += 1,
                    Said::Refused(code) => state.outcomes.refuse(code),
                }
            }
            Err(Silent::Call(error)) => state.fail(Failure::of(&error), &error),
            Err(Silent::Seal(error)) => state.fail(Failure::Seal, &error),
        }
    }

    async fn probe(&self, index: usize) {
        let Settings {
            to, within, probes, ..
        } = self.settings;
        while self.probes_begun.fetch_add(1, Ordering::Relaxed) < probes {
            let connected = {
                let _permit = self.opening.acquire().await.ok();
                connect(to, self.from(index), within).await
            };
            let mut state = self.state();
            match connected {
                Ok(_) => state.outcomes.probes += 1,
                Err(error) => {
                    state.outcomes.probes_failed += 1;
                    state.remember(&error);
                }
            }
        }
    }
}

impl State {
    fn fail(&mut self, failure: Failure, error: &dyn std::fmt::Display) {
        self.outcomes.fail(failure);
        self.remember(error);
    }

    fn remember(&mut self, error: &dyn std::fmt::Display) {
        self.first_failure.get_or_insert_with(|| error.to_string());
    }
}

/// A bound connection.
#[derive(Debug)]
struct Open {
    connection: Connection<TcpStream>,
    encoding: Encoding,
}

/// One of the connections, or of the places for them.
struct Client {
    shared: Arc<Shared>,
    index: usize,
    connection: Option<Open>,
    /// Whether an answer was opened and checked whole: on this connection or, where
    /// each has one request, on any.
    checked: bool,
    /// To connect, in a row.
    failures: u32,
}

impl Client {
    async fn run(mut self, start: Instant) {
        let settings = &self.shared.settings;
        let reconnect = settings.reconnect;
        let hold = settings.hold;
        // The version was tried when the load was made.
        let Ok(mut machine) = Machine::new(settings, number(self.index)) else {
            return;
        };
        while self.failures < ATTEMPTS
            && let Some(due) = self.shared.take(start)
        {
            let at = due.at.map(|at| start + at);
            if reconnect && let Ok(other) = Machine::new(&self.shared.settings, due.number) {
                machine = other;
            }
            if let Some(at) = at {
                sleep_until(at).await;
            }
            let sent = Instant::now();
            let said = self.ask(&machine).await;
            self.after(&said);
            self.shared.record(said, at.unwrap_or(sent), sent);
            if reconnect {
                self.hold(hold).await;
            }
        }
        self.hold(hold).await;
    }

    /// Asks on the connection there is, or on a new one.
    async fn ask(&mut self, machine: &Machine) -> Result<Said, Silent> {
        let open = match &mut self.connection {
            Some(open) => open,
            none => {
                let open = self.shared.open(self.index).await?;
                self.checked &= self.shared.settings.reconnect;
                none.insert(open)
            }
        };
        let reply = open.connection.call(open.encoding, &machine.message);
        let message = match reply.await? {
            Reply::Data(message) => message,
            Reply::Refused(code) => return Ok(Said::Refused(code)),
        };
        if self.checked {
            let (asked, answered) = (
                envelope::protocol(&machine.message)?,
                envelope::protocol(message)?,
            );
            return if asked == answered {
                Ok(Said::Answered)
            } else {
                Err(Silent::Seal(MessageError::Version(answered.into())))
            };
        }
        envelope::open_response(&LabSuite, &machine.message, message)?;
        self.checked = true;
        Ok(Said::Answered)
    }

    /// Drops a connection that is at its end.
    fn after(&mut self, said: &Result<Said, Silent>) {
        match said {
            Ok(_)
            | Err(Silent::Seal(_) | Silent::Call(CallError::Protocol(ClientError::Fault(_)))) => {
                self.failures = 0;
            }
            Err(Silent::Call(error)) => {
                self.connection = None;
                self.failures = match Failure::of(error) {
                    Failure::Connect => self.failures + 1,
                    _ => 0,
                };
            }
        }
    }

    /// Keeps the connection open for so long, if the host does.
    async fn hold(&mut self, hold: Duration) {
        let Some(mut open) = self.connection.take() else {
            return;
        };
        if hold.is_zero() {
            return;
        }
        tokio::select! {
            () = open.connection.closed() => self.shared.state().outcomes.dropped += 1,
            () = sleep(hold) => {}
        }
    }
}

impl From<CallError> for Silent {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<MessageError> for Silent {
    fn from(error: MessageError) -> Self {
        Self::Seal(error)
    }
}

/// Who asks: a sealed request, sent again and again.
struct Machine {
    message: Vec<u8>,
}

impl Machine {
    fn new(settings: &Settings, number: u64) -> Result<Self, MessageError> {
        let mut rng = Rng::with_seed(settings.seed.wrapping_add(number));
        let mut random = [0; 16];
        rng.fill(&mut random);
        let mut iv = [0; 16];
        rng.fill(&mut iv);
        let request = BaseRequest {
            client_machine_id: uuid::Builder::from_random_bytes(random).into_uuid(),
            workstation: numbered(settings.request.workstation, number),
            ..settings.request.clone()
        };
        let mut message = Vec::new();
        envelope::seal_request(&LabSuite, &request, &iv, &mut message)?;
        Ok(Self { message })
    }
}

/// `PC1-17`; a name too long for that stays as it is.
fn numbered(name: WorkstationName, number: u64) -> WorkstationName {
    let start = name.units().len();
    let suffix = format!("-{number}");
    let mut units = name.0;
    match units.get_mut(start..start + suffix.len()) {
        // A NUL follows.
        Some(room) if start + suffix.len() < NAME_UNITS => {
            for (to, byte) in room.iter_mut().zip(suffix.bytes()) {
                *to = byte.into();
            }
            WorkstationName(units)
        }
        _ => name,
    }
}

fn number(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
