//! What outlives the program: one embedded database (docs/state.md).
//!
//! [`open`] reads it, [`Store::save`] writes what changed in one transaction that
//! is on the disk when it returns. Rows are bytes here; the policy
//! ([`crate::policy::rows`]) and [`crate::saved`] know what they mean.
//!
//! A disk that is full or read-only stops nothing: the policy goes on in memory,
//! that is said once, and everything is written as soon as it can be.

pub mod control;
mod database;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use self::database::{Contents, Database, Fault};
use crate::policy::watch::Watch;
use crate::policy::{Policy, Settings};
use crate::saved::SavedLog;

/// Version of the layout of all that is stored. What a test pins as a layout
/// changes only together with it.
pub const SCHEMA: u64 = 1;

/// How long a state that cannot be written is left alone.
const RETRY: SignedDuration = SignedDuration::from_secs(5);

/// Logs whose state is kept though nobody follows them now, at most: so that a
/// mistyped start forgets nothing.
const MAX_OTHER_LOGS: usize = 64;

/// Saves between two looks at the file's size.
const LOOK_EVERY: u32 = 256;

/// A file below this is not worth compacting.
const COMPACT_ABOVE: u64 = 8 << 20;

/// Why nothing is started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another kms-notifier; stop that one first, or give another --state", .0.display())]
    InUse(PathBuf),
    /// A later version wrote it.
    #[error(
        "{} has the layout {found}, and this version knows {SCHEMA}; run the version that wrote it, \
         or start afresh with --state-reset, which forgets positions and unsent messages",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The version that it has.
        found: u64,
    },
    /// There is no place for it.
    #[error("cannot keep state in {}: {error}; make that directory, or give another --state", path.display())]
    NoPlace {
        /// The database.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// The state of an earlier run, taken over.
#[derive(Debug)]
pub struct Opened {
    /// Where to save.
    pub store: Store,
    /// The policy with its window, its unsent messages and its pace.
    pub policy: Policy,
    /// By name, where each log stands.
    pub logs: BTreeMap<String, SavedLog>,
    /// By name, what was known of each log's silence and drift.
    pub watches: BTreeMap<String, Watch>,
}

/// How a save ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Nothing had changed, or it is too early for another try.
    Nothing,
    /// It is on the disk.
    Written,
    /// It is not.
    Failed,
}

/// Opens the state at `path`, or makes it. `logs` are those that are followed now;
/// whoever follows none only looks into it, and no log is forgotten then. With
/// `reset` what is there is removed first.
///
/// # Errors
/// Something that an operator has to decide. A disk that is full or read-only is
/// none: then the store is [`Store::is_failing`].
pub fn open(
    path: &Path,
    reset: bool,
    settings: &Settings,
    seed: u64,
    logs: &[Arc<str>],
) -> Result<Opened, OpenError> {
    let mut store = Store::new(path.to_owned());
    let loaded = load(path, reset).and_then(|(database, contents)| {
        let (taken, others) = take_over(contents, settings, seed, logs)?;
        if !logs.is_empty() {
            database.forget(others.get(MAX_OTHER_LOGS..).unwrap_or_default())?;
        }
        store.database = Some(database);
        Ok(taken)
    });
    let path = || path.to_owned();
    let taken = match loaded {
        Ok(taken) => Some(taken),
        Err(Fault::InUse) => return Err(OpenError::InUse(path())),
        Err(Fault::Newer(found)) => {
            return Err(OpenError::Newer {
                path: path(),
                found,
            });
        }
        Err(Fault::NoPlace(error)) => {
            return Err(OpenError::NoPlace {
                path: path(),
                error,
            });
        }
        Err(Fault::Unreadable(what)) => {
            if let Err(fault) = store.set_aside(&what) {
                store.failed(&fault);
            }
            None
        }
        Err(fault @ Fault::Unwritable(_)) => {
            store.failed(&fault);
            let contents = Database::look(&store.path);
            let taken = contents.and_then(|contents| take_over(contents, settings, seed, logs));
            taken.ok().map(|(taken, _)| taken)
        }
    };
    let (policy, logs, watches) = taken.unwrap_or_else(|| {
        let policy = Policy::restore(settings.clone(), seed, &Vec::new());
        let policy = policy.expect("no rows are readable rows");
        (policy, BTreeMap::new(), BTreeMap::new())
    });
    Ok(Opened {
        store,
        policy,
        logs,
        watches,
    })
}

/// Opens and reads a database.
fn load(path: &Path, reset: bool) -> Result<(Database, Contents), Fault> {
    guarded(|| {
        let mut database = Database::open(path, reset)?;
        let contents = database.contents()?;
        if database.size() > COMPACT_ABOVE {
            database.compact()?;
        }
        Ok((database, contents))
    })
}

/// A file that was damaged in a way that the library does not expect makes it
/// panic; here that is an answer, too. What it held then is used no more.
fn guarded<T>(attempt: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|_| Err(Fault::Unreadable("its pages make no sense".into())))
}

/// A policy, where each followed log stands, and their watches.
type Taken = (Policy, BTreeMap<String, SavedLog>, BTreeMap<String, Watch>);

/// Makes sense of the rows. Also gives the names of logs that nobody follows.
fn take_over(
    contents: Contents,
    settings: &Settings,
    seed: u64,
    followed: &[Arc<str>],
) -> Result<(Taken, Vec<String>), Fault> {
    let unreadable = |what: String| Fault::Unreadable(what);
    let policy = Policy::restore(settings.clone(), seed, &contents.policy)
        .map_err(|error| unreadable(error.to_string()))?;
    let (mut logs, mut others) = (BTreeMap::new(), Vec::new());
    for (name, bytes) in contents.logs {
        if followed.iter().any(|log| **log == *name) {
            let log = SavedLog::decode(&bytes)
                .ok_or_else(|| unreadable(format!("what it says of the log {name:?} is cut")))?;
            logs.insert(name, log);
        } else {
            others.push(name);
        }
    }
    // One that another version wrote begins anew.
    let watches = contents.watches.into_iter();
    let watches = watches
        .filter_map(|(name, bytes)| Some((name, Watch::decode(&bytes)?)))
        .collect();
    Ok(((policy, logs, watches), others))
}

/// Writes the state.
pub struct Store {
    path: PathBuf,
    /// None while it cannot be written.
    database: Option<Database>,
    /// States of logs that are not written yet.
    logs: HashMap<Arc<str>, Vec<u8>>,
    /// Watches that are not written yet.
    watches: HashMap<Arc<str>, Vec<u8>>,
    /// All of the policy is to be written, not only what changed.
    whole: bool,
    retry_at: Option<Timestamp>,
    saves: u32,
    compact_above: u64,
    /// How often an unreadable database was set aside.
    aside: u64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Store {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            database: None,
            logs: HashMap::new(),
            watches: HashMap::new(),
            whole: false,
            retry_at: None,
            saves: 0,
            compact_above: COMPACT_ABOVE,
            aside: 0,
        }
    }

    /// The database's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the state cannot be written at present.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.database.is_none()
    }

    /// Size of the file in bytes, as far as it is known.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.database.as_ref().map_or(0, Database::size)
    }

    /// How often an unreadable database was set aside since the start: what it
    /// held is not known any more.
    #[must_use]
    pub fn set_aside_count(&self) -> u64 {
        self.aside
    }

    /// Where a log stands, to be written by the next save.
    pub fn handle_log(&mut self, log: Arc<str>, state: Vec<u8>) {
        self.logs.insert(log, state);
    }

    /// What is known of a log's silence and drift, to be written by the next save.
    pub fn handle_watch(&mut self, log: Arc<str>, watch: Vec<u8>) {
        self.watches.insert(log, watch);
    }

    /// Whether there is anything to save.
    #[must_use]
    pub fn has_changed(&self, policy: &Policy) -> bool {
        !self.logs.is_empty() || !self.watches.is_empty() || policy.has_changed()
    }

    /// When a state that cannot be written is tried again.
    #[must_use]
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.retry_at
    }

    /// Writes all that changed, in one transaction. When it returns
    /// [`Saved::Written`], neither a kill nor a loss of power undoes it.
    pub fn save(&mut self, policy: &mut Policy, now: Timestamp) -> Saved {
        // A clock that was set back does not make it wait for longer.
        let soon = |at: Timestamp| now < at && at.duration_since(now) <= RETRY;
        if !self.has_changed(policy) && self.database.is_some() || self.retry_at.is_some_and(soon) {
            return Saved::Nothing;
        }
        match self.try_save(policy) {
            Ok(()) => {
                if self.retry_at.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the state is saved again");
                }
                Saved::Written
            }
            Err(fault) => {
                self.failed(&fault);
                self.retry_at = Some(now.saturating_add(RETRY).unwrap_or(now));
                Saved::Failed
            }
        }
    }

    fn try_save(&mut self, policy: &mut Policy) -> Result<(), Fault> {
        if self.database.is_none() {
            self.database = Some(match load(&self.path, false) {
                Ok((database, _)) => database,
                Err(Fault::Unreadable(what)) => {
                    self.set_aside(&what)?;
                    load(&self.path, false)?.0
                }
                Err(fault) => return Err(fault),
            });
        }
        let Some(mut database) = self.database.take() else {
            return Ok(());
        };
        let changes = policy.take_changes(self.whole);
        // Until it is known to be written, nothing is.
        self.whole = true;
        self.saves = self.saves.wrapping_add(1);
        let look = self.saves.is_multiple_of(LOOK_EVERY);
        let database = guarded(|| {
            database.write(changes, &self.logs, &self.watches)?;
            if look && database.size() > self.compact_above {
                database.compact()?;
                self.compact_above = COMPACT_ABOVE.max(database.size().saturating_mul(2));
            }
            Ok(database)
        })?;
        self.database = Some(database);
        self.whole = false;
        self.logs.clear();
        self.watches.clear();
        Ok(())
    }

    /// Goes on in memory; what is wrong is said when it begins.
    fn failed(&mut self, what: &Fault) {
        if self.retry_at.is_none() {
            tracing::error!(
                path = %self.path.display(),
                "the state cannot be saved, going on in memory and trying again: {what}"
            );
        }
        // After an error it has to be opened anew, which also repairs it.
        self.whole = true;
        self.retry_at.get_or_insert(Timestamp::MIN);
    }

    /// Renames an unreadable database, so that it can be looked at, and begins
    /// a new one.
    fn set_aside(&mut self, what: &str) -> Result<(), Fault> {
        self.whole = true;
        let mut aside = self.path.clone().into_os_string();
        aside.push(".unreadable");
        let (path, aside) = (self.path.display(), PathBuf::from(aside));
        std::fs::rename(&self.path, &aside)
            .map_err(|error| Fault::Unwritable(format!("it is unreadable ({what}); {error}")))?;
        self.aside += 1;
        tracing::error!(
            "the state {path} is unreadable ({what}); it is now {}, and a new one begins",
            aside.display()
        );
        Ok(())
    }
}
