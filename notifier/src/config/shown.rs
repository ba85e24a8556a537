//! The configuration as `check-config` shows it.

use std::fmt;

use super::error::Origin;

/// Every value that is in force, and where it came from. Secrets are not in it.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    rows: Vec<(&'static str, String, Origin)>,
}

impl Effective {
    pub(super) fn add(&mut self, key: &'static str, value: impl Into<String>, origin: Origin) {
        self.rows.push((key, value.into(), origin));
    }
}

impl fmt::Display for Effective {
    /// One line per value: key, value, origin.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self
            .rows
            .iter()
            .map(|(key, ..)| key.len())
            .max()
            .unwrap_or(0);
        let values = self
            .rows
            .iter()
            .map(|(_, value, _)| value.chars().count())
            .max()
            .unwrap_or(0);
        for (key, value, origin) in &self.rows {
            let value = if value.is_empty() { "-" } else { value };
            writeln!(f, "{key:keys$}  {value:values$}  {}", origin.describe())?;
        }
        Ok(())
    }
}
