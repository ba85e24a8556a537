//! The status page: `GET /` on the metrics port.
//!
//! [`Recent`] remembers what just happened, in memory and bounded: the page says
//! since when. `view` turns that, the counters and a moment into HTML; it is
//! pure. The page is one document without scripts, and whole as it comes.

mod chart;
mod recent;
mod view;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::http::Readiness;
use super::metrics::Metrics;

pub use recent::{MAX_EVENTS, Recent};
pub use view::Query;

/// The page's only style, which its policy names by hash.
const STYLE: &str = include_str!("../../../templates/page.css");

/// All that a page is made of. Clones are handles to the same values.
#[derive(Clone)]
pub struct Page {
    recent: Recent,
    /// What a browser may do with the page, for `Content-Security-Policy`.
    policy: Arc<str>,
}

impl Page {
    /// A page of what is remembered here.
    #[must_use]
    pub fn new(recent: Recent) -> Self {
        let hash = STANDARD.encode(Sha256::digest(STYLE));
        // The icon is an empty one, so that browsers ask for none.
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'"
        );
        Self {
            recent,
            policy: policy.into(),
        }
    }

    /// The value of the `Content-Security-Policy` header.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// The page for a query such as `kind=probe`, as of `now`.
    ///
    /// # Errors
    /// Those of the template.
    pub fn render(
        &self,
        query: Option<&str>,
        metrics: &Metrics,
        readiness: &Readiness,
        now: Timestamp,
    ) -> Result<String, askama::Error> {
        let query = Query::parse(query.unwrap_or_default());
        view::render(query, &self.recent.read(now), metrics, readiness, now)
    }
}

#[cfg(test)]
mod tests;
