//! Who may come in: the limits, and the connections that are open because of
//! them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use crate::limits::{
    Admission, Decision, Limiter, Limits, LimitsError, Overloaded, Reason, Report, Source,
};

/// The limits behind a lock that is held for one decision.
#[derive(Debug)]
pub(super) struct Gate(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    limiter: Limiter,
    tasks: HashMap<u64, Task>,
    /// The same connections by source, so that one source's are found at once.
    by_source: BTreeSet<(Source, u64)>,
}

/// How a connection can be cut.
#[derive(Debug)]
enum Task {
    /// It is about to start.
    Starting,
    Running(AbortHandle),
    /// It was to be cut before it started.
    Doomed,
}

/// Why a connection is turned away; in a dry run, why it would have been.
pub(super) type Objection = Reason;

/// A connection's entry in the books; dropping it takes it out of them.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    number: u64,
    admission: Option<Admission>,
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Result<Self, LimitsError> {
        Ok(Self(Mutex::new(Inner {
            limiter: Limiter::new(limits)?,
            tasks: HashMap::new(),
            by_source: BTreeSet::new(),
        })))
    }

    /// Asks the limits about a connection. In a dry run it is let in with an
    /// objection.
    pub(super) fn admit(
        self: &Arc<Self>,
        number: u64,
        address: IpAddr,
        now: Instant,
    ) -> Result<(Place, Option<Objection>), Objection> {
        let mut inner = self.lock();
        let admission = inner.decide(number, address, now)?;
        inner.tasks.insert(number, Task::Starting);
        let objection = objection(&admission);
        let place = Place {
            gate: Arc::clone(self),
            number,
            admission: Some(admission),
        };
        Ok((place, objection))
    }

    /// Books a connection of which it is not known yet whose it is. It is not
    /// limited until [`Place::admit`].
    pub(super) fn enter(self: &Arc<Self>, number: u64) -> Place {
        self.lock().tasks.insert(number, Task::Starting);
        Place {
            gate: Arc::clone(self),
            number,
            admission: None,
        }
    }

    /// Says which task serves a connection.
    pub(super) fn started(&self, number: u64, handle: AbortHandle) {
        // It may be over already: then there is nothing to remember.
        if let Some(task) = self.lock().tasks.get_mut(&number) {
            if matches!(task, Task::Doomed) {
                handle.abort();
            }
            *task = Task::Running(handle);
        }
    }

    /// Cuts all connections.
    pub(super) fn cut_all(&self) {
        self.lock().tasks.values_mut().for_each(Task::cut);
    }

    pub(super) fn set_limits(&self, limits: Limits) -> Result<(), LimitsError> {
        self.lock().limiter.set_limits(limits)
    }

    pub(super) fn due_report(&self, now: Instant) -> Option<Report> {
        self.lock().limiter.poll_report(now)
    }

    pub(super) fn last_report(&self) -> Option<Report> {
        self.lock().limiter.last_report()
    }

    /// Sorted, so that two listings can be compared.
    pub(super) fn overloaded(&self, now: Instant) -> Vec<Overloaded> {
        let mut list: Vec<_> = self.lock().limiter.overloaded(now).collect();
        list.sort_by_key(|overloaded| overloaded.source);
        list
    }

    pub(super) fn expire(&self, age: Duration, now: Instant) -> usize {
        self.lock().limiter.expire(age, now)
    }

    pub(super) fn flush(&self, now: Instant) -> usize {
        self.lock().limiter.flush(now)
    }

    /// Sources remembered, of those overloaded, and connections that were admitted
    /// without an entry.
    pub(super) fn numbers(&self, now: Instant) -> (usize, usize, u64) {
        let inner = self.lock();
        let (sources, _) = inner.limiter.sources();
        let overloaded = inner.limiter.overloaded(now).count();
        (sources, overloaded, inner.limiter.counts().untracked)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Asks the limits, as [`Gate::admit`].
    pub(super) fn admit(
        &mut self,
        address: IpAddr,
        now: Instant,
    ) -> Result<Option<Objection>, Objection> {
        let admission = self.gate.lock().decide(self.number, address, now)?;
        let objection = objection(&admission);
        self.admission = Some(admission);
        Ok(objection)
    }
}

fn objection(admission: &Admission) -> Option<Objection> {
    admission.would_refuse.map(|refusal| refusal.reason)
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        inner.tasks.remove(&self.number);
        if let Some(admission) = self.admission.take() {
            inner.by_source.remove(&(admission.source, self.number));
            inner.limiter.handle_close(admission);
        }
    }
}

impl Inner {
    /// If the source went over a limit and the limits say so, its open connections
    /// are cut.
    fn decide(
        &mut self,
        number: u64,
        address: IpAddr,
        now: Instant,
    ) -> Result<Admission, Objection> {
        match self.limiter.handle_open(address, now) {
            Decision::Admit(admission) => {
                self.by_source.insert((admission.source, number));
                Ok(admission)
            }
            Decision::Refuse(refusal) => {
                if refusal.drop_existing {
                    self.cut(refusal.source);
                }
                Err(refusal.reason)
            }
        }
    }

    fn cut(&mut self, source: Source) {
        for (_, number) in self.by_source.range((source, 0)..=(source, u64::MAX)) {
            if let Some(task) = self.tasks.get_mut(number) {
                task.cut();
            }
        }
    }
}

impl Task {
    fn cut(&mut self) {
        match self {
            Self::Starting => *self = Self::Doomed,
            Self::Running(handle) => handle.abort(),
            Self::Doomed => {}
        }
    }
}
