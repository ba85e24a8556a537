//! What lines were taken for, kept for `explain` alone.

use super::connections::Tick;
use super::{Assembler, Class, EventId};

/// What one line was taken for, once [`Assembler::trace`] was called.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// The id that an event beginning with this line has.
    pub line: EventId,
    /// What the line counted as.
    pub class: Class,
    /// The request or connection it belongs to.
    pub subject: Option<EventId>,
}

#[derive(Debug, Default)]
pub(super) struct Traces {
    told: Vec<Trace>,
    subject: Option<EventId>,
}

impl Assembler {
    /// Keeps what every line from here on is taken for.
    pub fn trace(&mut self) {
        self.traces = Some(Traces::default());
    }

    /// What the lines since the last call were taken for, in the order in which
    /// that became known; nothing unless [`Self::trace`] was called.
    pub fn take_traces(&mut self) -> Vec<Trace> {
        let traces = self
            .traces
            .as_mut()
            .map(|traces| std::mem::take(&mut traces.told));
        traces.unwrap_or_default()
    }

    /// Counts a line, and tells of it if that was asked for.
    pub(super) fn count(&mut self, class: Class, line: impl FnOnce() -> EventId) {
        self.counters.line(class);
        if let Some(traces) = &mut self.traces {
            let subject = traces.subject.take();
            traces.told.push(Trace {
                line: line(),
                class,
                subject,
            });
        }
    }

    /// Notes which request or connection the line belongs to that is handled.
    pub(super) fn concerns(&mut self, subject: impl FnOnce(&Self) -> Option<EventId>) {
        if self.traces.is_some() {
            let subject = subject(self);
            if let Some(traces) = &mut self.traces {
                traces.subject = subject;
            }
        }
    }

    pub(super) fn concerns_block(&mut self, begin: Tick) {
        self.concerns(|this| this.blocks.get(begin).map(|block| block.seen.id));
    }
}
