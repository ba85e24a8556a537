//! What the template is filled with.

use askama::Template;
use jiff::Timestamp;

use super::STYLE;
use super::chart::{Chart, HEIGHT};
use super::recent::{KINDS, MAX_EVENTS, Memory, Row, Traffic};
use crate::event::{Attribution, Dedup, Kind};
use crate::sink::http::{LogState, Readiness};
use crate::sink::metrics::{Delivered, Metrics};

/// Seconds between two loads of the page.
const REFRESH: u32 = 30;

/// What the page was asked for; nothing of the text itself is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Show only events of this kind.
    pub kind: Option<Kind>,
    /// Load the page again by itself.
    pub refresh: bool,
}

impl Query {
    /// Reads what stands behind the `?`; what is unknown is passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut query = Self {
            kind: None,
            refresh: true,
        };
        for (name, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "kind" => query.kind = KINDS.into_iter().find(|kind| kind.as_str() == value),
                "refresh" => query.refresh = value != "off",
                _ => {}
            }
        }
        query
    }

    fn link(self) -> String {
        let kind = self.kind.map(|kind| format!("kind={}", kind.as_str()));
        let refresh = (!self.refresh).then(|| "refresh=off".to_owned());
        let pairs: Vec<_> = kind.into_iter().chain(refresh).collect();
        format!("/?{}", pairs.join("&"))
    }
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    style: &'static str,
    version: &'static str,
    refresh: Option<u32>,
    refresh_link: String,
    now: String,
    since: String,
    problem: Option<String>,
    filters: Vec<Filter>,
    rows: Vec<RowView<'a>>,
    one_kind: bool,
    max_events: usize,
    many_logs: bool,
    charts: [Chart; 2],
    chart_height: u64,
    delivered: Delivered,
    logs: Vec<LogView>,
    products: Vec<(&'static str, u64)>,
    sources: Vec<(&'a str, Traffic)>,
    shares: Vec<Share>,
}

struct Filter {
    name: &'static str,
    link: String,
    count: u64,
    current: bool,
}

struct RowView<'a> {
    row: &'a Row,
    time: String,
    kind: &'static str,
    outcome: String,
}

struct LogView {
    name: String,
    state: &'static str,
    ready: bool,
    lag: String,
    last_line: String,
    silent: bool,
}

struct Share {
    name: &'static str,
    count: u64,
    /// Of all, in hundredths.
    percent: u64,
}

pub(super) fn render(
    query: Query,
    memory: &Memory,
    metrics: &Metrics,
    readiness: &Readiness,
    now: Timestamp,
) -> askama::Result<String> {
    let total = memory.counts.iter().sum();
    let all = Filter {
        name: "All",
        link: Query {
            kind: None,
            ..query
        }
        .link(),
        count: total,
        current: query.kind.is_none(),
    };
    let kinds = KINDS
        .into_iter()
        .zip(memory.counts)
        .map(|(kind, count)| Filter {
            name: kind_name(kind),
            link: Query {
                kind: Some(kind),
                ..query
            }
            .link(),
            count,
            current: query.kind == Some(kind),
        });
    let logs: Vec<_> = readiness
        .logs()
        .into_iter()
        .map(|(name, state)| {
            let log = metrics.log(&name).read();
            LogView {
                ready: state == LogState::Ready,
                state: state.as_str(),
                lag: bytes(log.lag),
                last_line: log.last_line.map_or_else(
                    || "none yet".to_owned(),
                    |at| format!("{} ago", span(at, now)),
                ),
                silent: log.silent,
                name: name.to_string(),
            }
        })
        .collect();
    let mut products: Vec<_> = memory.products.iter().map(|(n, c)| (*n, *c)).collect();
    products.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    Page {
        style: STYLE,
        version: env!("CARGO_PKG_VERSION"),
        refresh: query.refresh.then_some(REFRESH),
        refresh_link: Query {
            refresh: !query.refresh,
            ..query
        }
        .link(),
        now: stamp(now),
        since: stamp(memory.since),
        problem: readiness.problem(),
        filters: std::iter::once(all).chain(kinds).collect(),
        rows: memory.last(query.kind).into_iter().map(row).collect(),
        one_kind: query.kind.is_some(),
        max_events: MAX_EVENTS,
        many_logs: logs.len() > 1,
        charts: [
            Chart::new(
                "activations",
                "Activations per hour",
                memory.activations.series(now),
            ),
            Chart::new("probes", "Probes per hour", memory.probes.series(now)),
        ],
        chart_height: HEIGHT,
        delivered: metrics.delivered(),
        logs,
        products,
        sources: memory
            .sources
            .iter()
            .map(|(name, traffic)| (&**name, *traffic))
            .collect(),
        shares: shares(memory.attributions),
    }
    .render()
}

fn row(row: &Row) -> RowView<'_> {
    RowView {
        row,
        time: row.time.map_or_else(String::new, stamp),
        kind: kind_name(row.kind),
        outcome: outcome(row),
    }
}

/// What became of it, in a few words; none of them is the client's.
fn outcome(row: &Row) -> String {
    let told = row.dedup.map(|dedup| match dedup {
        Dedup::Post => "posted",
        Dedup::Repeat => "repeat",
        Dedup::Pending => "joins a message",
        Dedup::Off => "not posted",
    });
    let code = row.hresult.map(|code| format!("0x{code:08X}"));
    let reason = row.reason.as_deref().map(str::to_owned);
    let status = row.status.map(|status| format!("was {status}"));
    let parts = [code, reason, status, told.map(str::to_owned)];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    parts.join(", ")
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Activation => "Activation",
        Kind::Refused => "Refused",
        Kind::Probe => "Probe",
        Kind::Dropped => "Dropped",
        Kind::Aborted => "Aborted",
        Kind::ServerStarted => "Server started",
        Kind::ServerStopped => "Server stopped",
    }
}

fn shares(counts: [u64; Attribution::ALL.len()]) -> Vec<Share> {
    let total: u64 = counts.iter().sum();
    let share = |(attribution, count): (Attribution, u64)| Share {
        name: attribution.as_str(),
        count,
        percent: (count * 100 + total / 2) / total.max(1),
    };
    Attribution::ALL
        .into_iter()
        .zip(counts)
        .map(share)
        .collect()
}

/// In UTC, to the second.
fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How long ago, in its largest unit. The future is now.
fn span(at: Timestamp, now: Timestamp) -> String {
    match now.duration_since(at).as_secs().max(0) {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{} kB", n / 1000),
        _ => format!("{} MB", n / 1_000_000),
    }
}
