//! What is answered over HTTP: scrapes and probes. The server itself, with its
//! bounds, is [`kms_core::http`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, StatusCode};
use kms_core::http::{self, Answer, PLAIN, reply};
use tokio::net::TcpListener;

pub use kms_core::http::{
    CONNECTION_LIFE, HEAD_TIMEOUT, MAX_CONNECTIONS, MAX_HEAD, STOP_GRACE, bind,
};

use super::metrics::Metrics;
use super::page::Page;

/// What the server answers from. Clones are handles to the same values.
#[derive(Clone)]
pub struct State {
    /// The counters behind `/metrics`.
    pub metrics: Metrics,
    /// The answer of `/readyz`.
    pub readiness: Readiness,
    /// The answer of `/`, where there is one.
    pub page: Option<Page>,
}

/// Which logs are being followed; each log's thread keeps its own entry true.
/// Clones are handles to the same value.
#[derive(Clone)]
pub struct Readiness(Arc<Mutex<BTreeMap<Arc<str>, LogState>>>);

/// How a log's reader is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    /// Open, and its position is advancing or at the end.
    Ready,
    /// There is no such file yet.
    Waiting,
    /// It exists and cannot be opened or read.
    Unreadable,
    /// There is more to read and the position does not advance: the hub takes nothing,
    /// since nobody reads what is printed.
    Stalled,
    /// Its end was reached and no more can come: standard input was closed, or
    /// the child ended.
    Ended,
}

impl LogState {
    /// In a word or two.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "read",
            Self::Waiting => "no file yet",
            Self::Unreadable => "unreadable",
            Self::Stalled => "stalled",
            Self::Ended => "ended",
        }
    }

    fn reason(self) -> Option<&'static str> {
        match self {
            Self::Ready => None,
            Self::Waiting => Some("waiting for the file to appear"),
            Self::Unreadable => Some("cannot be read"),
            Self::Stalled => Some("there is more to read and nothing is read"),
            Self::Ended => Some("has ended"),
        }
    }
}

impl Readiness {
    /// Starts with every log [`LogState::Waiting`].
    #[must_use]
    pub fn new<'a>(logs: impl IntoIterator<Item = &'a Arc<str>>) -> Self {
        let logs = logs
            .into_iter()
            .map(|name| (Arc::clone(name), LogState::Waiting))
            .collect();
        Self(Arc::new(Mutex::new(logs)))
    }

    /// Says how a log is doing.
    pub fn set(&self, log: &Arc<str>, state: LogState) {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logs.insert(Arc::clone(log), state);
    }

    /// Every log and how it is doing, by name.
    #[must_use]
    pub fn logs(&self) -> Vec<(Arc<str>, LogState)> {
        let logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let log = |(name, state): (&Arc<str>, &LogState)| (Arc::clone(name), *state);
        logs.iter().map(log).collect()
    }

    /// Nothing when every log is ready, else one line that says which is not.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = String::new();
        for (name, state) in &*logs {
            if let Some(reason) = state.reason() {
                let comma = if line.is_empty() { "not ready: " } else { ", " };
                write!(line, "{comma}log {name} {reason}")
                    .expect("a String takes all that is written");
            }
        }
        (!line.is_empty()).then_some(line)
    }
}

/// Answers requests on `listener` until `shutdown` is done, then lets answers
/// under way finish.
pub async fn serve(listener: TcpListener, state: State, shutdown: impl Future<Output = ()>) {
    let answer = move |_, request: &Request<Incoming>| answer(&state, request);
    http::serve(listener, answer, shutdown).await;
}

fn answer<B>(state: &State, request: &Request<B>) -> Answer {
    let (method, path) = (request.method(), request.uri().path());
    let known = match path {
        "/metrics" | "/healthz" | "/readyz" => true,
        "/" => state.page.is_some(),
        _ => false,
    };
    if !known {
        return reply(
            StatusCode::NOT_FOUND,
            PLAIN,
            "not found; try /metrics, /healthz or /readyz\n",
        );
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refusal = reply(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n");
        refusal
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/" => page(state, request.uri().query()),
        "/metrics" => {
            let format = http::format(request.headers());
            match state.metrics.encode(format) {
                Ok(text) => reply(StatusCode::OK, format.content_type(), text),
                Err(_) => {
                    tracing::error!("the metrics cannot be written as text");
                    reply(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        PLAIN,
                        "cannot write the metrics\n",
                    )
                }
            }
        }
        "/readyz" => match state.readiness.problem() {
            None => reply(StatusCode::OK, PLAIN, "ok\n"),
            Some(problem) => reply(StatusCode::SERVICE_UNAVAILABLE, PLAIN, problem + "\n"),
        },
        _ => reply(StatusCode::OK, PLAIN, "ok\n"),
    }
}

fn page(state: &State, query: Option<&str>) -> Answer {
    let Some(page) = &state.page else {
        return reply(StatusCode::NOT_FOUND, PLAIN, "there is no page\n");
    };
    let Ok(html) = page.render(query, &state.metrics, &state.readiness, now()) else {
        tracing::error!("the status page cannot be rendered");
        return reply(
            StatusCode::INTERNAL_SERVER_ERROR,
            PLAIN,
            "cannot render the page\n",
        );
    };
    let mut response = reply(StatusCode::OK, "text/html; charset=utf-8", html);
    let policy = HeaderValue::from_str(page.policy()).expect("a policy is plain ASCII");
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[expect(
    clippy::disallowed_methods,
    reason = "the handler is an edge: it gives the page its time"
)]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[cfg(test)]
mod tests;
