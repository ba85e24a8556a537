//! Values of options, from how they are typed.

use std::time::Duration;

use jiff::SignedDuration;

/// `30s`, `2m`, `1h30m`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds
        .or_else(|| Duration::try_from(text.parse::<SignedDuration>().ok()?).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "use a time above 0, like 30s or 5m".to_owned())
}
