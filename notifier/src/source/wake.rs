//! What a log's thread waits on when there is nothing to read.
//!
//! One bounded channel brings everything: hints that a file may have changed,
//! chunks of a stream, the wish to stop. Hints may be lost or be wrong; whoever
//! waits also looks by himself after a while ([`Backoff`]), and that is the
//! guarantee.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Progress;
use super::tail::FileId;

/// How many chunks of a stream wait to be handled at most; then its reader waits.
const MAX_CHUNKS: usize = 16;

/// How many symlinks are followed from the path on, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// What ended a wait.
#[derive(Debug)]
pub enum Woken {
    /// A followed file may have changed, or a child has ended.
    Changed,
    /// A stream brought bytes; never empty.
    Data(Vec<u8>),
    /// A stream is over, or reading it failed.
    End(io::Result<()>),
    /// [`Waker::stop`] was called; every later wait says so again.
    Stop,
    /// Nothing came.
    TimedOut,
}

enum Hint {
    Changed,
    Data(Vec<u8>),
    End(io::Result<()>),
}

#[derive(Debug, Default)]
struct Flags {
    stop: AtomicBool,
    /// A [`Hint::Changed`] is in the channel: one is enough.
    changed: AtomicBool,
}

/// Wakes one log's thread; clones wake the same one.
#[derive(Clone, Debug)]
pub struct Waker {
    flags: Arc<Flags>,
    sender: SyncSender<Hint>,
}

impl Waker {
    /// Asks the thread to look again. Never blocks.
    pub fn changed(&self) {
        if !self.flags.changed.swap(true, Ordering::AcqRel)
            && self.sender.try_send(Hint::Changed).is_err()
        {
            // A full channel wakes the thread as well.
            self.flags.changed.store(false, Ordering::Release);
        }
    }

    /// Asks the thread to stop, ahead of everything that is queued. Never blocks.
    pub fn stop(&self) {
        self.flags.stop.store(true, Ordering::Release);
        self.changed();
    }

    /// Sends a chunk of a stream, after those before it; waits for room.
    /// `false` when nobody takes it any more.
    #[must_use]
    pub(super) fn data(&self, chunk: Vec<u8>) -> bool {
        self.sender.send(Hint::Data(chunk)).is_ok()
    }

    /// Says how the stream ended. `false` when nobody takes it any more.
    #[must_use]
    pub(super) fn end(&self, result: io::Result<()>) -> bool {
        self.sender.send(Hint::End(result)).is_ok()
    }
}

/// The receiving end of [`Waker`]s, owned by one log's thread.
pub struct Wake {
    waker: Waker,
    hints: Receiver<Hint>,
    watch: Option<Watch>,
    watch_error: WatchError,
}

impl Default for Wake {
    fn default() -> Self {
        Self::new()
    }
}

impl Wake {
    /// A channel that nobody sends to yet.
    #[must_use]
    pub fn new() -> Self {
        let (sender, hints) = sync_channel(MAX_CHUNKS);
        Self {
            waker: Waker {
                flags: Arc::default(),
                sender,
            },
            hints,
            watch: None,
            watch_error: WatchError::None,
        }
    }

    /// A waker for another thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Asks the kernel for hints about the file at `path` and, where it is a
    /// symlink, about what it points to, also when that changes later. Call it
    /// before the first look at the file, so that nothing falls between.
    pub fn follow(&mut self, path: &Path) {
        match Watch::new(path.to_owned(), self.waker()) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => self.watch_error = WatchError::New(error),
        }
        self.refresh_watch();
    }

    /// The first reason why the kernel gives no hints (its limits, for instance);
    /// once. It is worth one line in the program's own log and no more, since
    /// polling alone finds everything a little later.
    pub fn watch_error(&mut self) -> Option<notify::Error> {
        match std::mem::replace(&mut self.watch_error, WatchError::Told) {
            WatchError::New(error) => Some(error),
            before => {
                self.watch_error = before;
                None
            }
        }
    }

    /// Waits until something comes, for `timeout` at most.
    pub fn wait(&mut self, timeout: Duration) -> Woken {
        let hint = if self.stops() {
            Ok(Hint::Changed)
        } else {
            self.hints.recv_timeout(timeout)
        };
        let flags = &self.waker.flags;
        match hint {
            _ if self.stops() => Woken::Stop,
            Ok(Hint::Changed) => {
                // Before the file is looked at, so that a change after this look
                // sends a hint of its own.
                flags.changed.store(false, Ordering::Release);
                self.refresh_watch();
                Woken::Changed
            }
            Ok(Hint::Data(chunk)) => Woken::Data(chunk),
            Ok(Hint::End(result)) => Woken::End(result),
            // It cannot be disconnected: `self` keeps a sender.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.refresh_watch();
                Woken::TimedOut
            }
        }
    }

    fn stops(&self) -> bool {
        self.waker.flags.stop.load(Ordering::Acquire)
    }

    /// Symlinks may point elsewhere by now, and directories may be others.
    fn refresh_watch(&mut self) {
        if let Some(Err(error)) = self.watch.as_mut().map(Watch::refresh)
            && matches!(self.watch_error, WatchError::None)
        {
            self.watch_error = WatchError::New(error);
        }
    }
}

/// What there is to tell about notifications that do not work.
enum WatchError {
    None,
    New(notify::Error),
    Told,
}

/// How long to wait between two looks while nothing happens.
///
/// It starts short and doubles, since a log that has just been written to is
/// likely to be again.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

impl Backoff {
    /// The wait after something was read.
    pub const FIRST: Duration = Duration::from_millis(10);
    /// The longest wait.
    pub const MAX: Duration = Duration::from_secs(1);
    /// The longest wait while a rotated file is waited out.
    pub const SETTLING: Duration = Duration::from_millis(250);

    /// How long to wait after a step that made this progress.
    pub fn after(&mut self, progress: &Progress) -> Duration {
        if !progress.at_end {
            self.next = Self::FIRST;
            return Duration::ZERO;
        }
        if progress.read > 0 {
            self.next = Self::FIRST;
        }
        let wait = self.next;
        self.next = (wait * 2).min(Self::MAX);
        wait.min(if progress.settling {
            Self::SETTLING
        } else {
            Self::MAX
        })
    }
}

/// The kernel's notifications for one path.
///
/// Directories are watched, not files: a file that appears under a name is news,
/// and a rename leaves a file's own watch with the old one.
struct Watch {
    watcher: RecommendedWatcher,
    path: PathBuf,
    /// The path and what it leads to, as of the last look.
    chain: Vec<PathBuf>,
    /// The directories being watched, and which ones they were then.
    directories: BTreeMap<PathBuf, FileId>,
    /// Names in them that matter.
    names: Arc<Mutex<Vec<OsString>>>,
}

impl Watch {
    fn new(path: PathBuf, waker: Waker) -> notify::Result<Self> {
        let names = Arc::new(Mutex::new(Vec::new()));
        let interesting = Arc::clone(&names);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = match &event {
                // Our own reading makes events, too.
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
                Ok(event) if !event.need_rescan() => {
                    let names = interesting.lock().unwrap_or_else(PoisonError::into_inner);
                    event.paths.iter().any(|path| is_about(path, &names))
                }
                Ok(_) | Err(_) => true,
            };
            if matters {
                waker.changed();
            }
        })?;
        Ok(Self {
            watcher,
            path,
            chain: Vec::new(),
            directories: BTreeMap::new(),
            names,
        })
    }

    /// Watches the directories that the path leads through now, and no others.
    fn refresh(&mut self) -> notify::Result<()> {
        let chain = links(&self.path);
        // A directory that does not exist yet is looked for again later.
        let wanted: BTreeMap<_, _> = chain.iter().filter_map(|file| directory_of(file)).collect();
        if chain != self.chain {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            *names = chain
                .iter()
                .filter_map(|file| Some(file.file_name()?.to_owned()))
                .collect();
            self.chain = chain;
        }
        let watcher = &mut self.watcher;
        self.directories.retain(|directory, id| {
            let keep = wanted.get(directory) == Some(id);
            if !keep {
                // This fails for a directory that is gone, and with it its watch.
                let _gone = watcher.unwatch(directory);
            }
            keep
        });
        for (directory, id) in wanted {
            if let Entry::Vacant(new) = self.directories.entry(directory) {
                watcher.watch(new.key(), RecursiveMode::NonRecursive)?;
                new.insert(id);
            }
        }
        Ok(())
    }
}

/// The directory a file is in, under one name however it was reached.
fn directory_of(file: &Path) -> Option<(PathBuf, FileId)> {
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
    let metadata = fs::metadata(&directory).ok()?;
    Some((directory, FileId::of(&metadata)))
}

/// Rotated files (`log.1`, `0.log.20261120-212755`) begin with the log's name and
/// may still be written to.
fn is_about(path: &Path, names: &[OsString]) -> bool {
    let Some(name) = path.file_name() else {
        return true;
    };
    let name = name.as_encoded_bytes();
    names
        .iter()
        .any(|wanted| name.starts_with(wanted.as_encoded_bytes()))
}

/// The path and, as long as that is a symlink, what it points to.
pub(super) fn links(path: &Path) -> Vec<PathBuf> {
    let mut chain = vec![path.to_owned()];
    while chain.len() <= MAX_LINKS
        && let Some(last) = chain.last()
        && let Ok(target) = fs::read_link(last)
    {
        let next = last
            .parent()
            .map_or_else(|| target.clone(), |parent| parent.join(&target));
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Long enough for any machine; no test waits for it to pass.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn many_changes_are_one_hint_and_stop_comes_first() {
        let mut wake = Wake::new();
        let waker = wake.waker();
        for _ in 0..1000 {
            waker.changed();
        }
        assert!(waker.data(b"x".to_vec()));
        assert!(matches!(wake.wait(PATIENCE), Woken::Changed));
        assert!(matches!(wake.wait(PATIENCE), Woken::Data(chunk) if chunk == b"x"));
        assert!(matches!(wake.wait(Duration::ZERO), Woken::TimedOut));
        assert!(waker.data(b"y".to_vec()));
        waker.stop();
        assert!(matches!(wake.wait(PATIENCE), Woken::Stop));
        assert!(matches!(wake.wait(PATIENCE), Woken::Stop));
    }

    #[test]
    fn a_hint_that_finds_the_channel_full_does_not_silence_later_ones() {
        let mut wake = Wake::new();
        let waker = wake.waker();
        for _ in 0..MAX_CHUNKS {
            assert!(waker.data(vec![0]));
        }
        waker.changed();
        for _ in 0..MAX_CHUNKS {
            assert!(matches!(wake.wait(PATIENCE), Woken::Data(_)));
        }
        waker.changed();
        assert!(matches!(wake.wait(PATIENCE), Woken::Changed));
    }

    #[test]
    fn a_stop_reaches_a_thread_that_waits() {
        let mut wake = Wake::new();
        let waker = wake.waker();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || wake.wait(PATIENCE));
            waker.stop();
            assert!(matches!(waiting.join().unwrap(), Woken::Stop));
        });
    }

    #[test]
    fn senders_learn_that_nobody_listens() {
        let waker = Wake::new().waker();
        assert!(!waker.data(vec![0]));
        assert!(!waker.end(Ok(())));
        waker.changed();
    }

    #[test]
    fn the_back_off_doubles_and_starts_again_with_activity() {
        let idle = Progress {
            at_end: true,
            ..Progress::default()
        };
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.after(&idle).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(
            backoff.after(&Progress {
                settling: true,
                ..idle
            }),
            Backoff::SETTLING
        );
        assert_eq!(backoff.after(&Progress { read: 1, ..idle }), Backoff::FIRST);
        assert_eq!(
            backoff.after(&Progress {
                at_end: false,
                ..idle
            }),
            Duration::ZERO
        );
    }

    fn wait_for_change(wake: &mut Wake) {
        assert!(matches!(wake.wait(PATIENCE), Woken::Changed));
    }

    /// Takes hints until none comes for a while.
    fn settle(wake: &mut Wake) {
        while !matches!(wake.wait(Duration::from_millis(50)), Woken::TimedOut) {}
    }

    #[test]
    fn the_kernel_tells_of_writes_renames_and_new_files() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut wake = Wake::new();
        wake.follow(&log);
        assert!(wake.watch_error().is_none());
        fs::write(&log, "one\n").unwrap();
        wait_for_change(&mut wake);
        settle(&mut wake);
        fs::rename(&log, directory.path().join("log.1")).unwrap();
        wait_for_change(&mut wake);
        settle(&mut wake);
        fs::write(directory.path().join("log.1"), "late\n").unwrap();
        wait_for_change(&mut wake);
    }

    #[test]
    fn a_symlink_is_followed_to_its_new_target() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["a", "b", "links"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("a/0.log"), "").unwrap();
        fs::write(path("b/1.log"), "").unwrap();
        symlink("../a/0.log", path("links/log")).unwrap();
        let mut wake = Wake::new();
        wake.follow(&path("links/log"));
        fs::write(path("a/0.log"), "one\n").unwrap();
        wait_for_change(&mut wake);
        settle(&mut wake);
        symlink(path("b/1.log"), path("links/log.new")).unwrap();
        fs::rename(path("links/log.new"), path("links/log")).unwrap();
        wait_for_change(&mut wake);
        settle(&mut wake);
        fs::write(path("b/1.log"), "two\n").unwrap();
        wait_for_change(&mut wake);
    }

    #[test]
    fn a_directory_that_appears_later_is_watched_then() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("sub/log");
        let mut wake = Wake::new();
        wake.follow(&log);
        fs::create_dir(directory.path().join("sub")).unwrap();
        assert!(matches!(wake.wait(Duration::ZERO), Woken::TimedOut));
        fs::write(&log, "one\n").unwrap();
        wait_for_change(&mut wake);
    }

    #[test]
    fn links_end_even_in_a_loop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("loop");
        symlink(&path, &path).unwrap();
        assert_eq!(links(&path).len(), MAX_LINKS + 1);
    }
}
