//! The admin port: `/metrics` and `/healthz` for whoever reaches it, and the
//! overload table under `/limits` for this machine alone.
//!
//! | request | answer |
//! |---|---|
//! | `GET /limits` | [`Listing`] |
//! | `DELETE /limits` | empties the table: [`Removed`] |
//! | `DELETE /limits?older-than=600` | removes who has been on it for so many seconds |

use std::net::SocketAddr;
use std::time::Duration;

use hyper::header::{ALLOW, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::http::{self, Answer, PLAIN, format, reply};
use crate::limits::Overloaded;

use super::Front;

/// Most rows of a [`Listing`].
pub const MAX_ROWS: usize = 10_000;

const JSON: &str = "application/json";

/// The overload table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// How many sources are on it.
    pub total: usize,
    /// The first [`MAX_ROWS`] of them, by address.
    pub overloaded: Vec<Row>,
}

/// A source on the overload table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// An address or a network.
    pub source: String,
    /// Which limit it went over: `connections` or `rate`.
    pub reason: String,
    /// For how long it has been on the table.
    pub age_seconds: u64,
    /// For how long it stays.
    pub left_seconds: u64,
    /// How many connections it has open.
    pub connections: u32,
}

/// What a removal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// How many sources were taken off the table.
    pub removed: usize,
}

impl From<Overloaded> for Row {
    fn from(overloaded: Overloaded) -> Self {
        Self {
            source: overloaded.source.to_string(),
            reason: overloaded.reason.as_str().to_owned(),
            age_seconds: overloaded.age.as_secs(),
            left_seconds: overloaded.left.as_secs(),
            connections: overloaded.connections,
        }
    }
}

/// Answers on `listener` until `shutdown` is done.
pub async fn serve(listener: TcpListener, front: Front, shutdown: impl Future<Output = ()>) {
    let answer = move |peer, request: &Request<_>| answer(&front, peer, request);
    http::serve(listener, answer, shutdown).await;
}

fn answer<B>(front: &Front, peer: SocketAddr, request: &Request<B>) -> Answer {
    let path = request.uri().path();
    let allowed = match path {
        "/metrics" | "/healthz" => "GET, HEAD",
        "/limits" if !is_from_here(peer, request.headers()) => {
            return reply(
                StatusCode::FORBIDDEN,
                PLAIN,
                "only from this machine, by its address, and not from a web page\n",
            );
        }
        "/limits" => "GET, HEAD, DELETE",
        _ => {
            return reply(
                StatusCode::NOT_FOUND,
                PLAIN,
                "not found; try /metrics, /healthz or /limits\n",
            );
        }
    };
    match (request.method(), path) {
        (&Method::GET | &Method::HEAD, "/metrics") => metrics(front, request.headers()),
        (&Method::GET | &Method::HEAD, "/healthz") => reply(StatusCode::OK, PLAIN, "ok\n"),
        (&Method::GET | &Method::HEAD, _) => list(front),
        (&Method::DELETE, "/limits") => remove(front, request.uri().query()),
        _ => {
            let mut refusal = reply(
                StatusCode::METHOD_NOT_ALLOWED,
                PLAIN,
                format!("only {allowed}\n"),
            );
            refusal
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(allowed));
            refusal
        }
    }
}

/// A peer on this machine that is no browser at work for somebody else's page: a
/// page has an origin, or (with a name that was made to point here) a host that is
/// no address.
fn is_from_here(peer: SocketAddr, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let by_address = host.is_some_and(|host| {
        host.parse::<Authority>().is_ok_and(|authority| {
            let name = authority.host().trim_matches(['[', ']']);
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
        })
    });
    peer.ip().to_canonical().is_loopback() && by_address && !headers.contains_key(ORIGIN)
}

fn metrics(front: &Front, headers: &HeaderMap) -> Answer {
    let format = format(headers);
    match front.metrics().encode(format, front.snapshot()) {
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

fn list(front: &Front) -> Answer {
    let overloaded = front.overloaded();
    json(&Listing {
        total: overloaded.len(),
        overloaded: overloaded
            .into_iter()
            .take(MAX_ROWS)
            .map(Row::from)
            .collect(),
    })
}

fn remove(front: &Front, query: Option<&str>) -> Answer {
    let removed = match query {
        None => front.flush(),
        Some(query) => {
            let seconds = query.strip_prefix("older-than=");
            let Some(Ok(seconds)) = seconds.map(str::parse) else {
                return reply(
                    StatusCode::BAD_REQUEST,
                    PLAIN,
                    "use older-than=SECONDS, or nothing for the whole table\n",
                );
            };
            front.expire(Duration::from_secs(seconds))
        }
    };
    tracing::info!(removed, "sources taken off the overload table");
    json(&Removed { removed })
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(text) => reply(StatusCode::OK, JSON, text),
        Err(_) => reply(
            StatusCode::INTERNAL_SERVER_ERROR,
            PLAIN,
            "cannot write the answer\n",
        ),
    }
}
