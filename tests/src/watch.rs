//! A value that other threads change and a test waits for.

use std::fmt::Debug;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::DEADLINE;

/// Shared state with a way to wait until it is as wanted.
#[derive(Debug, Default)]
pub struct Watch<T> {
    state: Mutex<T>,
    changed: Condvar,
}

impl<T: Debug> Watch<T> {
    /// A watch over `state`.
    pub fn new(state: T) -> Self {
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Changes the state and wakes whoever waits for it.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `pick` finds what it looks for, and returns that.
    ///
    /// # Panics
    /// When [`DEADLINE`] passes first; the message has `what` and the state.
    pub fn wait_for<R>(&self, what: &str, mut pick: impl FnMut(&T) -> Option<R>) -> R {
        let mut found = None;
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), DEADLINE, |state| {
                found = pick(state);
                found.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        found.unwrap_or_else(|| panic!("waited in vain for {what}; there is only {:#?}", *state))
    }

    /// The state, locked. A test that panicked elsewhere does not hide it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::Watch;

    #[test]
    fn a_waiter_sees_a_change_made_elsewhere() {
        let watch = Arc::new(Watch::new(Vec::new()));
        let writer = Arc::clone(&watch);
        let thread =
            thread::spawn(move || (0..100).for_each(|n| writer.update(|list| list.push(n))));
        assert_eq!(
            watch.wait_for("the fiftieth", |list| list.get(50).copied()),
            50
        );
        thread.join().unwrap();
        assert_eq!(watch.lock().len(), 100);
    }
}
