//! The state around the sidecar: taken over at the start, asked about while it
//! runs, and looked into where none does.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;

use super::{RunError, now, settings};
use crate::config::{ConfigError, DeadLetters, State};
use crate::hub::Message;
use crate::policy::watch::Watch;
use crate::policy::{Policy, Settings};
use crate::saved::SavedLog;
use crate::sink::state::control::{self, Control, Reply, Request};
use crate::sink::state::{self, Opened, Saved};

/// What an earlier run left, or nothing.
pub(super) struct Kept {
    pub(super) policy: Policy,
    pub(super) store: Option<state::Store>,
    pub(super) logs: BTreeMap<String, SavedLog>,
    pub(super) watches: BTreeMap<String, Watch>,
}

impl Kept {
    pub(super) fn open(
        state: Option<&State>,
        settings: &Settings,
        logs: &[Arc<str>],
    ) -> Result<Self, ConfigError> {
        let seed = fastrand::u64(..);
        let Some(state) = state else {
            return Ok(Self {
                policy: Policy::new(settings.clone(), seed),
                store: None,
                logs: BTreeMap::new(),
                watches: BTreeMap::new(),
            });
        };
        let Opened {
            store,
            policy,
            logs,
            watches,
        } = state::open(&state.path, state.reset, settings, seed, logs)
            .map_err(|error| state.error(error))?;
        Ok(Self {
            policy,
            store: Some(store),
            logs,
            watches,
        })
    }
}

/// Answers those who ask about dead letters. Without the socket all else works.
pub(super) fn listen(state: &State, hub: &Sender<Message>) {
    let control = match Control::bind(&state.path) {
        Ok(control) => control,
        Err(error) => {
            return tracing::warn!("no control socket beside the state: {error}");
        }
    };
    let hub = hub.downgrade();
    tokio::spawn(async move {
        let ask = async |request: Request| {
            let (reply, answer) = oneshot::channel();
            let hub = hub.upgrade()?;
            hub.send(Message::Control(request, reply)).await.ok()?;
            answer.await.ok()
        };
        control.serve(ask).await;
    });
}

/// Lists, retries or drops dead letters: through the sidecar that has the state
/// open, or where none has, in the state itself. Returns the lines to print.
///
/// # Errors
/// There is no such state or no such dead letter, or the state cannot be used.
pub fn dead_letters(what: &DeadLetters) -> Result<Vec<String>, RunError> {
    let system = |what| move |error| RunError::System { what, error };
    let asked = control::ask(&what.state.path, &what.request);
    let reply = match asked.map_err(system("the sidecar's control socket"))? {
        Some(reply) => reply,
        None => in_state(what)?,
    };
    match reply {
        Reply::Letters(letters) => Ok(letters.iter().map(ToString::to_string).collect()),
        Reply::Done(count) => Ok(vec![format!("{count} messages")]),
        Reply::Unknown(ids) => Err(RunError::NoDeadLetter(ids)),
        Reply::Error(error) => Err(RunError::System {
            what: "the sidecar",
            error: io::Error::other(error),
        }),
    }
}

fn in_state(what: &DeadLetters) -> Result<Reply, RunError> {
    let path = &what.state.path;
    if !path.exists() {
        let line = format_args!(
            "{} does not exist; give the state of the sidecar",
            path.display()
        );
        return Err(what.state.error(line).into());
    }
    let settings = settings(&what.reading);
    let mut opened = state::open(path, false, &settings, fastrand::u64(..), &[])
        .map_err(|error| what.state.error(error))?;
    let reply = control::answer(&what.request, &mut opened.policy, now());
    match opened.store.save(&mut opened.policy, now()) {
        Saved::Failed => Err(RunError::System {
            what: "the state",
            error: io::Error::other("it cannot be written"),
        }),
        Saved::Nothing | Saved::Written => Ok(reply),
    }
}
