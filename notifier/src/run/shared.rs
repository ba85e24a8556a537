//! The store that is shared with other sidecars, and the task that asks it.

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;

use super::now;
use crate::config::{Config, ConfigError};
use crate::dedup_store::redis::RedisStore;
use crate::dedup_store::{Request, SharedDedup};
use crate::hub::{Message, Shared};
use crate::policy::Policy;

/// Shares the policy where a store is configured. Nothing is asked before the hub
/// runs, and a store that does not answer is no reason not to start.
pub(super) fn share(
    config: &Config,
    policy: &mut Policy,
    to_hub: &Sender<Message>,
) -> Result<Option<Shared>, ConfigError> {
    let Some(store) = &config.dedup_store else {
        return Ok(None);
    };
    let store = RedisStore::new(&store.access())
        .map_err(|what| ConfigError::line(format_args!("--dedup-store: {what}")))?;
    policy.share(now());
    // The hub has one batch under way at most.
    let (requests, due) = channel(1);
    tokio::spawn(ask(due, store, to_hub.clone()));
    let (window, now) = (config.reading.dedup_window, Instant::now().into_std());
    let shared = Shared::new(window, policy.sidecar(), requests, now);
    Ok(Some(shared))
}

/// Takes one batch after the other to the store, and says what it answered.
async fn ask(
    mut due: Receiver<Vec<Request>>,
    mut store: impl SharedDedup,
    to_hub: Sender<Message>,
) {
    while let Some(requests) = due.recv().await {
        let answers = store.carry_out(&requests).await;
        if to_hub.send(Message::Answers(answers)).await.is_err() {
            return;
        }
    }
}
