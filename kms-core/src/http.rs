//! A small HTTP server for scrapes and probes.
//!
//! It is reachable by whoever reaches the port, so everything a peer can use up
//! is bounded: connections by [`MAX_CONNECTIONS`] (the next one waits in the
//! kernel's backlog), a request's head by [`MAX_HEAD`] and [`HEAD_TIMEOUT`], a
//! connection's life by [`CONNECTION_LIFE`]. Bodies are never read.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::exposition::Format;

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
/// The content type of short texts.
pub const PLAIN: &str = "text/plain; charset=utf-8";

/// Pause after a failed accept (no file descriptors left, most likely), so that
/// the loop does not spin on it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections the kernel keeps waiting.
const BACKLOG: i32 = 128;

/// What is answered: made at once, from the request's head.
pub type Answer = Response<Full<Bytes>>;

/// Opens a listening socket for HTTP; see [`listen`].
///
/// # Errors
/// As [`listen`].
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    listen(address, false, BACKLOG)
}

/// Opens a listening socket. `[::]` takes IPv4 too, whatever the system's
/// default, unless `only_v6` says otherwise; on a machine without IPv6 it becomes
/// `0.0.0.0`. Port 0 takes a free one, which the listener then tells. `backlog`
/// connections wait in the kernel, if it lets them.
///
/// # Errors
/// The socket's own: the address is in use, not this machine's, or the port is
/// one that needs privileges.
pub fn listen(
    address: SocketAddr,
    only_v6: bool,
    backlog: i32,
) -> io::Result<std::net::TcpListener> {
    let any_v6 = matches!(address, SocketAddr::V6(v6) if v6.ip().is_unspecified());
    let dual_stack = any_v6 && !only_v6;
    match open(address, dual_stack, backlog) {
        Err(error) if dual_stack && lacks_ipv6(&error) => open(
            (Ipv4Addr::UNSPECIFIED, address.port()).into(),
            false,
            backlog,
        ),
        result => result,
    }
}

fn open(address: SocketAddr, dual_stack: bool, backlog: i32) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    // A restart need not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Whether the error says that the kernel has no IPv6, or has it switched off.
fn lacks_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Answers requests on `listener` until `shutdown` is done, then lets answers
/// under way finish for [`STOP_GRACE`]. `answer` is told the peer's address.
pub async fn serve<A>(listener: TcpListener, answer: A, shutdown: impl Future<Output = ()>)
where
    A: Fn(SocketAddr, &Request<Incoming>) -> Answer + Clone + Send + 'static,
{
    let service = |peer| {
        let answer = answer.clone();
        service_fn(move |request| {
            let answer = answer(peer, &request);
            async { Ok::<_, Infallible>(answer) }
        })
    };
    serve_with(listener, MAX_CONNECTIONS, service, shutdown).await;
}

/// The same for any service, which may read bodies: at most `places` connections
/// are served at a time; `service` makes what answers on one, given the peer.
pub async fn serve_with<S, B>(
    listener: TcpListener,
    places: usize,
    service: impl Fn(SocketAddr) -> S,
    shutdown: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut shutdown = pin!(shutdown);
    let places = Arc::new(Semaphore::new(places));
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
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // A peer that has said all it had to say still gets its answer.
            .half_close(true)
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .max_header_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service(peer));
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            let _place = place;
            match timeout(CONNECTION_LIFE, connection).await {
                Ok(Ok(())) => {}
                // The peer's doing, and worth no more than this.
                Ok(Err(error)) => tracing::debug!(%error, "HTTP connection"),
                Err(_) => tracing::debug!("HTTP connection outlived its limit"),
            }
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    // What is still going on after the grace ends with `connections`.
    let _ = timeout(STOP_GRACE, graceful.shutdown()).await;
}

/// The exposition format that a scrape's headers ask for.
#[must_use]
pub fn format(headers: &HeaderMap) -> Format {
    let accept: Vec<_> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    Format::negotiate(&accept.join(","))
}

/// An answer with a body of this type.
pub fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
