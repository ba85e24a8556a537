//! The HTTP side: `POST /diag`, `GET /healthz`, `GET /metrics`.
//!
//! A sender is always told 204, so that no script fails over its diagnostics and
//! nobody learns what is done with them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use ipnet::IpNet;
use jiff::Timestamp;
use kms_core::http::{self, format};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;

use super::allowance::Allowance;
use super::client;
use super::line::{self, MAX_BODY, Origin, line};
use super::metrics::{Metrics, Outcome};
use super::output::Lines;

/// Connections served at a time.
pub const MAX_CONNECTIONS: usize = 256;

/// Longest wait for a body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of a body that is not wanted is read all the same, in bytes: a
/// connection that is closed with bytes unread is reset, and the answer lost.
const MAX_DISCARD: usize = 64 << 10;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What events meet here.
#[derive(Debug)]
pub struct Collector {
    trusted: Vec<IpNet>,
    allowance: Option<Mutex<Allowance>>,
    metrics: Metrics,
    lines: Arc<Lines>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
struct Peer(IpAddr);

impl Collector {
    /// Believes `X-Forwarded-For` of these proxies, takes so many events of each
    /// source in a minute, and prints to `lines`.
    #[must_use]
    pub fn new(trusted: Vec<IpNet>, rate: Option<u32>, lines: Arc<Lines>) -> Self {
        let allowance = rate.map(|rate| {
            Mutex::new(Allowance::new(rate).expect("the configuration keeps to the bounds"))
        });
        Self {
            trusted,
            allowance,
            metrics: Metrics::new(
                env!("CARGO_PKG_VERSION"),
                option_env!("KMS_NOTIFIER_REVISION").unwrap_or("unknown"),
            ),
            lines,
        }
    }

    /// Whether this source may have one more line.
    fn takes(&self, ip: IpAddr) -> bool {
        let Some(allowance) = &self.allowance else {
            return true;
        };
        let now = Instant::now().into_std();
        let mut allowance = allowance.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(report) = allowance.poll_report(now) {
            tracing::debug!(source = %report.source, events = report.count, "limited");
        }
        allowance.take(ip, now)
    }

    /// Prints and counts a body.
    fn print(&self, body: line::Body<'_>, origin: Origin) {
        let made = line(body, origin);
        self.metrics.cut(made.cut);
        let taken = self.lines.send(made.text);
        self.metrics.event(if taken {
            made.outcome
        } else {
            Outcome::Dropped
        });
    }
}

/// Answers on `listener` until `shutdown` is done.
pub async fn serve(
    listener: TcpListener,
    collector: Collector,
    shutdown: impl Future<Output = ()>,
) {
    let router = router(Arc::new(collector));
    let service = |peer: SocketAddr| {
        let router = router.clone();
        service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            router.clone().oneshot(request)
        })
    };
    http::serve_with(listener, MAX_CONNECTIONS, service, shutdown).await;
}

fn router(collector: Arc<Collector>) -> Router {
    Router::new()
        .route("/diag", post(diag))
        .route("/metrics", get(metrics))
        .route("/healthz", get("ok\n"))
        .fallback((
            StatusCode::NOT_FOUND,
            "not found; try /diag, /healthz or /metrics\n",
        ))
        .with_state(collector)
}

async fn diag(
    State(collector): State<Arc<Collector>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let forwarded = headers.get_all(FORWARDED_FOR).iter();
    // One that is not text is no address either, and stops whoever looks for one.
    let forwarded = forwarded.map(|value| value.to_str().unwrap_or("?"));
    let ip = client::address(peer, forwarded, &collector.trusted);
    let taken = collector.takes(ip);
    let received = receive(&headers, body, if taken { MAX_BODY } else { 0 }).await;
    // With the rest of a body on its way, what follows on the connection is no request.
    let unread = matches!(received, Err(line::Body::Late | line::Body::Oversize));
    if taken {
        let origin = Origin { ip, time: now() };
        let body = match &received {
            Ok(bytes) => {
                collector.metrics.size(bytes.len());
                line::Body::Whole(bytes)
            }
            Err(what) => *what,
        };
        collector.print(body, origin);
    } else {
        collector.metrics.event(Outcome::Limited);
    }
    if unread {
        (StatusCode::NO_CONTENT, [(CONNECTION, "close")]).into_response()
    } else {
        StatusCode::NO_CONTENT.into_response()
    }
}

/// Reads a body of at most `most` bytes; what is larger is read on and thrown
/// away, within a bound, for the answer's sake.
async fn receive(
    headers: &HeaderMap,
    mut body: Body,
    most: usize,
) -> Result<Vec<u8>, line::Body<'static>> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > MAX_DISCARD) {
        return Err(line::Body::Oversize);
    }
    let reading = async {
        let mut bytes = Vec::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return Err(line::Body::Broken);
            };
            // Trailers are nothing to print.
            let Some(data) = frame.data_ref() else {
                continue;
            };
            length += data.len();
            if length > MAX_DISCARD {
                break;
            }
            if length <= most {
                bytes.extend_from_slice(data);
            }
        }
        if length > most {
            Err(line::Body::Oversize)
        } else {
            Ok(bytes)
        }
    };
    timeout(BODY_TIMEOUT, reading)
        .await
        .unwrap_or(Err(line::Body::Late))
}

async fn metrics(State(collector): State<Arc<Collector>>, headers: HeaderMap) -> Response {
    let format = format(&headers);
    match collector.metrics.encode(format) {
        Ok(text) => ([(CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(_) => {
            tracing::error!("the metrics cannot be written as text");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "cannot write the metrics\n",
            )
                .into_response()
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the handler is an edge: it stamps events"
)]
fn now() -> Timestamp {
    Timestamp::now()
}
