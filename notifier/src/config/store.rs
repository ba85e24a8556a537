//! The store by which several sidecars agree on who tells.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::error::{ConfigError, Origin};
use super::layers::{Layers, read_bounded};
use super::raw::{RawConfig, Secret, Text};
use crate::dedup_store::redis::{Access, RedisStore};

const KEY: &str = "dedup-store";

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(30);

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

pub(super) fn dedup_store(layers: &mut Layers) -> Result<Option<DedupStore>, ConfigError> {
    let url = layers.pick(KEY, |raw| &raw.serving.dedup_store);
    let (shown, origin) = match &url {
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
    let Some((url, origin, _)) = url else {
        return Ok(None);
    };
    let store = DedupStore {
        url,
        password: password.map(|text| text.trim().to_owned().into()),
        authorities: authorities.map(|text| text.into_bytes().into()),
        timeout,
    };
    RedisStore::new(&store.access()).map_err(|what| ConfigError::new(&origin, what))?;
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
