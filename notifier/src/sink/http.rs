//! What is answered over HTTP: scrapes and probes. The server itself, with its
//! bounds, is [`kms_core::http`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use kms_core::http::{self, Answer, PLAIN, reply};
use tokio::net::TcpListener;

pub use kms_core::http::{
    CONNECTION_LIFE, HEAD_TIMEOUT, MAX_CONNECTIONS, MAX_HEAD, STOP_GRACE, bind,
};

use super::metrics::Metrics;

/// What the server answers from. Clones are handles to the same values.
#[derive(Clone)]
pub struct State {
    /// The counters behind `/metrics`.
    pub metrics: Metrics,
    /// The answer of `/readyz`.
    pub readiness: Readiness,
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
    /// There is more to read and the position does not advance.
    Stalled,
    /// Its end was reached and no more can come: standard input was closed, or
    /// the child ended.
    Ended,
}

impl LogState {
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
    let answer = move |_, request: &Request<Incoming>| {
        let path = request.uri().path();
        answer(&state, request.method(), path, request.headers())
    };
    http::serve(listener, answer, shutdown).await;
}

fn answer(state: &State, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
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
        "/metrics" => {
            let format = http::format(headers);
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

#[cfg(test)]
mod tests;
