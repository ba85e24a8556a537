//! The HTTP server for scrapes and probes.
//!
//! It is reachable by whoever reaches the port, so everything a peer can use up
//! is bounded: connections by [`MAX_CONNECTIONS`] (the next one waits in the
//! kernel's backlog), a request's head by [`MAX_HEAD`] and [`HEAD_TIMEOUT`], a
//! connection's life by [`CONNECTION_LIFE`]. Bodies are never read.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::metrics::{Format, Metrics};

/// Connections served at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// Longest request head in bytes; also the least that hyper can buffer.
pub const MAX_HEAD: usize = 8192;
/// Longest wait for a request head, and so for the next request on a
/// connection that is kept open.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest life of a connection, whatever it does: a peer that takes its
/// answer byte by byte holds a place for no longer than this.
pub const CONNECTION_LIFE: Duration = Duration::from_secs(30);
/// How long a stop waits for answers under way.
pub const STOP_GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed accept (no file descriptors left, most likely), so that
/// the loop does not spin on it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections the kernel keeps waiting.
const BACKLOG: i32 = 128;

const PLAIN: &str = "text/plain; charset=utf-8";

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

/// Opens the listening socket. `[::]` takes IPv4 too, whatever the system's
/// default; on a machine without IPv6 it becomes `0.0.0.0`. Port 0 takes a free
/// one, which the listener then tells.
///
/// # Errors
/// The socket's own: the address is in use, not this machine's, or the port is
/// one that needs privileges.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let any_v6 = matches!(address, SocketAddr::V6(v6) if v6.ip().is_unspecified());
    match open(address, any_v6) {
        Err(error) if any_v6 && lacks_ipv6(&error) => {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into(), false)
        }
        result => result,
    }
}

fn open(address: SocketAddr, dual_stack: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if dual_stack {
        socket.set_only_v6(false)?;
    }
    // A restart need not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether the error says that the kernel has no IPv6, or has it switched off.
fn lacks_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Answers requests on `listener` until `shutdown` is done, then lets answers
/// under way finish for [`STOP_GRACE`].
pub async fn serve(listener: TcpListener, state: State, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        // The place first: a connection that cannot be served is not accepted.
        let accepted = async {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the metrics port");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = graceful.watch(connection(stream, state.clone()));
        connections.spawn(async move {
            let _place = place;
            match timeout(CONNECTION_LIFE, connection).await {
                Ok(Ok(())) => {}
                // The peer's doing, and worth no more than this.
                Ok(Err(error)) => tracing::debug!(%error, "metrics connection"),
                Err(_) => tracing::debug!("metrics connection outlived its limit"),
            }
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    // What is still going on after the grace ends with `connections`.
    let _ = timeout(STOP_GRACE, graceful.shutdown()).await;
}

fn connection(
    stream: TcpStream,
    state: State,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_header_size(MAX_HEAD)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(move |request: Request<_>| {
                let answer = answer(
                    &state,
                    request.method(),
                    request.uri().path(),
                    request.headers(),
                );
                async { Ok::<_, Infallible>(answer) }
            }),
        )
}

fn answer(
    state: &State,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Response<Full<Bytes>> {
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
            let accept: Vec<_> = headers
                .get_all(ACCEPT)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .collect();
            let format = Format::negotiate(&accept.join(","));
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

fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
