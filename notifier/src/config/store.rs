//! The store by which several sidecars agree on who tells.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::error::{ConfigError, Origin};
use super::layers::{Layers, read_bounded};
use super::raw::{RawConfig, Secret, Text};
use crate::dedup_store::redis::{Access, RedisStore};

const KEY: &str = "dedup-store";

/// Twice the longest (a call may have to connect first) is less than what a stop
/// waits for messages, so none is lost to a store that hangs.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(4);

/// Longest password file and longest file of authorities, in bytes.
const MAX_PASSWORD_FILE: u64 = 4096;
const MAX_CA_FILE: u64 = 1 << 20;

/// How to reach the store; checked.
#[derive(Clone, Debug)]
pub struct DedupStore {
    url: Secret,
    password: Option<Secret>,
    authorities: Option<Box<[u8]>>,
    timeout: Duration,
}

impl DedupStore {
    /// What a [`RedisStore`] is made of.
    #[must_use]
    pub fn access(&self) -> Access<'_> {
        Access {
            url: self.url.expose(),
            password: self.password.as_ref().map(Secret::expose),
            authorities: self.authorities.as_deref(),
            timeout: self.timeout,
        }
    }
}

/// An empty URL is no store, whatever a lower place says. Without a webhook
/// nothing is told, and nothing in the program's log may mute other sidecars.
pub(super) fn dedup_store(
    layers: &mut Layers,
    window: Duration,
    has_webhook: bool,
) -> Result<Option<DedupStore>, ConfigError> {
    let url = layers.pick(KEY, |raw| &raw.serving.dedup_store);
    let (shown, origin) = match &url {
        Some((url, origin, _)) if url.expose().is_empty() => ("", origin.clone()),
        // It may hold a password.
        Some((_, origin, _)) => ("[redacted]", origin.clone()),
        None => ("", Origin::Default(KEY)),
    };
    layers.effective.add(KEY, shown, origin);
    let password = file(
        layers,
        "dedup-store-password-file",
        |raw| &raw.serving.dedup_store_password_file,
        MAX_PASSWORD_FILE,
    )?;
    let authorities = file(
        layers,
        "dedup-store-ca-file",
        |raw| &raw.serving.dedup_store_ca_file,
        MAX_CA_FILE,
    )?;
    let timeout = layers.bounded(
        "dedup-store-timeout",
        |raw| &raw.serving.dedup_store_timeout,
        Duration::from_secs(1),
        &TIMEOUT,
    )?;
    let Some((url, origin, _)) = url.filter(|(url, ..)| !url.expose().is_empty()) else {
        return Ok(None);
    };
    let password = password.map(|text| text.trim().to_owned());
    if password.as_ref().is_some_and(String::is_empty) {
        let what = "the password file is empty; write the password into it, or give none";
        return Err(ConfigError::new(&origin, what));
    }
    let store = DedupStore {
        url,
        password: password.map(Secret::from),
        authorities: authorities.map(|text| text.into_bytes().into()),
        timeout,
    };
    RedisStore::new(&store.access()).map_err(|what| ConfigError::new(&origin, what))?;
    if window.is_zero() {
        let what = "there is nothing to agree on with --dedup-window 0, which tells everything; \
                    give a window, or no store";
        return Err(ConfigError::new(&origin, what));
    }
    if !has_webhook {
        layers.warnings.push(format!(
            "{origin} is not used: without a webhook nothing is told that others could leave out"
        ));
        return Ok(None);
    }
    Ok(Some(store))
}

/// The content of the file that an option names.
fn file(
    layers: &mut Layers,
    key: &'static str,
    field: impl Fn(&RawConfig) -> &Option<Text>,
    max: u64,
) -> Result<Option<String>, ConfigError> {
    let Some((path, origin, _)) = layers.pick(key, field) else {
        layers.effective.add(key, "", Origin::Default(key));
        return Ok(None);
    };
    let content = read_bounded(Path::new(&*path), max).map_err(|error| {
        let what = format!("cannot read {}: {error}; give a readable file", &*path);
        ConfigError::new(&origin, what)
    })?;
    layers.effective.add(key, &*path, origin);
    Ok(Some(content))
}
