//! Posts messages, one call each, and says how that ended.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect, retry};
use rustls::ClientConfig;

use super::resolver::Resolver;
use super::{Payload, Roots, Webhook};
use crate::policy::Outcome;

/// Longest time for connecting, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of an answer's body is read; Slack's error words are short.
const MAX_BODY: usize = 256;

/// The longest of Slack's error words that is shown.
const MAX_WORD: usize = 64;

/// Posts to one webhook. It follows no redirects, uses no proxy (a proxy from
/// the environment would be told where the webhook is), retries nothing by
/// itself, and looks names up without the C library.
#[derive(Debug)]
pub struct Poster {
    client: Client,
    webhook: Webhook,
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The TLS library refused its own defaults.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The HTTP library did.
    #[error("the HTTP client cannot be set up")]
    Http(#[from] reqwest::Error),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// What it means for the message.
    pub outcome: Outcome,
    /// Words for the log where it was not accepted; never the URL.
    pub problem: Option<String>,
}

impl Poster {
    /// A poster whose attempts take at most `timeout` in all, and which trusts a
    /// host that one of the `roots` vouches for.
    ///
    /// # Errors
    ///
    /// When the TLS or HTTP library cannot be set up.
    pub fn new(webhook: Webhook, roots: &Roots, timeout: Duration) -> Result<Self, BuildError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots.store())
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(webhook.is_https())
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .timeout(timeout)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .dns_resolver(Resolver)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("kms-notifier/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(reqwest::Error::without_url)?;
        Ok(Self { client, webhook })
    }

    /// Posts one message. `now` is what a date in `Retry-After` is compared with
    /// if the answer does not carry its own.
    pub async fn post(&self, payload: &Payload, now: Timestamp) -> Posted {
        let body = serde_json::to_vec(payload).expect("strings and flags are JSON");
        let request = self
            .client
            .post(self.webhook.url().clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        match request.send().await {
            Ok(response) => judge(response, now).await,
            Err(error) => Posted {
                outcome: Outcome::Retry,
                problem: Some(describe(error.without_url())),
            },
        }
    }
}

async fn judge(response: Response, now: Timestamp) -> Posted {
    let status = response.status();
    let outcome = match status {
        // The message is taken, whatever happens to the answer's body.
        status if status.is_success() => {
            return Posted {
                outcome: Outcome::Accepted,
                problem: None,
            };
        }
        StatusCode::TOO_MANY_REQUESTS => {
            retry_after(response.headers(), now).map_or(Outcome::Retry, Outcome::RetryAfter)
        }
        status if status.is_server_error() => Outcome::Retry,
        status => Outcome::Final(status.as_u16()),
    };
    let mut problem = format!("HTTP {}", status.as_u16());
    if let Some(word) = error_word(response).await {
        problem.push(' ');
        problem.push_str(&word);
    }
    Posted {
        outcome,
        problem: Some(problem),
    }
}

/// `Retry-After` as seconds or as a date (RFC 9110, 10.2.3). A date is compared
/// with the answer's own `Date`, so that clocks need not agree.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // Too many digits for a number are many seconds; the outbox bounds them.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let until = http_date(value)?;
    let from = header_date(headers, DATE).unwrap_or(now);
    let wait = until.duration_since(from).max(SignedDuration::ZERO);
    Some(wait.unsigned_abs())
}

fn header_date(headers: &HeaderMap, name: HeaderName) -> Option<Timestamp> {
    http_date(headers.get(name)?.to_str().ok()?)
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text.trim())
        .ok()
}

/// Slack's word for an error (`no_service`, `invalid_blocks`), if the body is
/// one: a hostile answer gets nothing else into the log.
async fn error_word(mut response: Response) -> Option<String> {
    let mut body = Vec::new();
    // A body that breaks off is as good as none: the status said it all.
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(chunk.get(..MAX_BODY).unwrap_or(&chunk));
        if body.len() > MAX_BODY {
            return None;
        }
    }
    let word = str::from_utf8(&body).ok()?.trim();
    let is_word = !word.is_empty()
        && word.len() <= MAX_WORD
        && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    is_word.then(|| word.to_owned())
}

/// An error with its causes, in one line.
fn describe(error: reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread::JoinHandle;

    /// The webhook of a server that hands its first connection to `answer`
    /// after it read the request, which it gives back.
    fn serve(
        answer: impl FnOnce(&mut TcpStream) + Send + 'static,
    ) -> (Webhook, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "http://{}/services/T0/B0/secret",
            listener.local_addr().unwrap()
        );
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            // Requests here end with the payload's closing brace.
            while !request.ends_with(b"}") {
                let n = stream.read(&mut buffer).unwrap();
                assert!(n > 0, "the request was cut");
                request.extend_from_slice(&buffer[..n]);
            }
            answer(&mut stream);
            String::from_utf8(request).unwrap()
        });
        (url.parse().unwrap(), server)
    }

    async fn post_to(webhook: Webhook, timeout: Duration) -> Posted {
        let poster = Poster::new(webhook, &Roots::default(), timeout).unwrap();
        let payload = Payload::new("Test", "Test");
        let posted = poster
            .post(&payload, "2026-01-01T00:00:00Z".parse().unwrap())
            .await;
        assert!(!format!("{posted:?} {poster:?}").contains("secret"));
        posted
    }

    async fn post(answer: &'static str) -> Posted {
        let (webhook, server) = serve(move |stream| stream.write_all(answer.as_bytes()).unwrap());
        let posted = post_to(webhook, Duration::from_secs(10)).await;
        request(server).await;
        posted
    }

    /// The request that the server got, once it is done. Not a blocking join:
    /// the client's end of the connection lives on this thread.
    async fn request(server: JoinHandle<String>) -> String {
        tokio::task::spawn_blocking(|| server.join().unwrap())
            .await
            .unwrap()
    }

    fn problem(outcome: Outcome, problem: &str) -> Posted {
        Posted {
            outcome,
            problem: Some(problem.into()),
        }
    }

    #[tokio::test]
    async fn ok_is_accepted_and_the_request_is_what_slack_expects() {
        let (webhook, server) = serve(|stream| {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .unwrap();
        });
        let posted = post_to(webhook, Duration::from_secs(10)).await;
        assert_eq!(
            posted,
            Posted {
                outcome: Outcome::Accepted,
                problem: None
            }
        );
        let request = request(server).await;
        assert!(request.starts_with("POST /services/T0/B0/secret HTTP/1.1\r\n"));
        assert!(request.contains("content-type: application/json\r\n"));
        assert!(request.contains("\"type\":\"plain_text\""));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_changes_nothing_about_acceptance() {
        let posted = post("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nok").await;
        assert_eq!(posted.outcome, Outcome::Accepted);
    }

    #[tokio::test]
    async fn too_many_requests_honours_retry_after() {
        assert_eq!(
            post("HTTP/1.1 429 Too Many\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n").await,
            problem(Outcome::RetryAfter(Duration::from_secs(30)), "HTTP 429")
        );
        assert_eq!(
            post("HTTP/1.1 429 Too Many\r\nContent-Length: 12\r\n\r\nrate_limited").await,
            problem(Outcome::Retry, "HTTP 429 rate_limited")
        );
    }

    #[tokio::test]
    async fn server_errors_are_retried_and_other_answers_are_final() {
        assert_eq!(
            post("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").await,
            problem(Outcome::Retry, "HTTP 500")
        );
        assert_eq!(
            post("HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nno_service").await,
            problem(Outcome::Final(404), "HTTP 404 no_service")
        );
        // The redirect would lead to a port where nobody listens.
        assert_eq!(
            post(
                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
            )
            .await,
            problem(Outcome::Final(302), "HTTP 302")
        );
    }

    #[tokio::test]
    async fn hostile_bodies_stay_out_of_the_log() {
        for body in [
            "/services/T0/B0/secret",
            "a\r\nb",
            "ünicode",
            "UPPER",
            "no service",
        ] {
            let answer = format!(
                "HTTP/1.1 400 Bad\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            assert_eq!(
                post(answer.leak()).await,
                problem(Outcome::Final(400), "HTTP 400")
            );
        }
        let long = format!(
            "HTTP/1.1 400 Bad\r\nContent-Length: 9000\r\n\r\n{:a<9000}",
            ""
        );
        assert_eq!(
            post(long.leak()).await,
            problem(Outcome::Final(400), "HTTP 400")
        );
    }

    #[tokio::test]
    async fn a_stall_ends_at_the_timeout_and_is_retried() {
        let (webhook, server) = serve(|stream| {
            // Answers nothing; ends when the client has given up.
            let mut rest = Vec::new();
            let _closed_or_reset = stream.read_to_end(&mut rest);
        });
        let posted = post_to(webhook, Duration::from_millis(50)).await;
        assert_eq!(posted.outcome, Outcome::Retry);
        assert!(posted.problem.unwrap().contains("timed out"));
        request(server).await;
    }

    #[tokio::test]
    async fn a_cut_connection_is_retried() {
        assert_eq!(post("").await.outcome, Outcome::Retry);
        assert_eq!(post("HTTP/1.1 200").await.outcome, Outcome::Retry);
        assert_eq!(post("no http at all\r\n\r\n").await.outcome, Outcome::Retry);
    }

    #[tokio::test]
    async fn nobody_listening_is_retried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/services/secret", listener.local_addr().unwrap());
        drop(listener);
        let posted = post_to(url.parse().unwrap(), Duration::from_secs(10)).await;
        assert_eq!(posted.outcome, Outcome::Retry);
    }

    #[tokio::test]
    async fn https_is_spoken_to_https_only() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/services/secret", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 2];
            stream.read_exact(&mut hello).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            format!("{hello:?}")
        });
        let posted = post_to(url.parse().unwrap(), Duration::from_secs(10)).await;
        assert_eq!(posted.outcome, Outcome::Retry);
        // A TLS handshake record of protocol 3.x.
        assert_eq!(request(server).await, "[22, 3]");
    }

    #[tokio::test]
    async fn a_host_is_trusted_whose_authority_was_added() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let added = Roots::with(made.cert.pem().as_bytes()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let tls = Arc::new(tls);
        for (roots, outcome) in [
            (added, Outcome::Accepted),
            (Roots::default(), Outcome::Retry),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let tls = Arc::clone(&tls);
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut session = rustls::ServerConnection::new(tls).unwrap();
                let mut stream = rustls::Stream::new(&mut session, &mut stream);
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                while !request.ends_with(b"}") {
                    match stream.read(&mut buffer) {
                        Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
                        // It does not trust this server.
                        _ => return String::new(),
                    }
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .unwrap();
                String::from_utf8(request).unwrap()
            });
            // By name: the resolver is part of what is tested.
            let webhook = format!("https://localhost:{port}/services/secret");
            let poster =
                Poster::new(webhook.parse().unwrap(), &roots, Duration::from_secs(10)).unwrap();
            let now = "2026-01-01T00:00:00Z".parse().unwrap();
            let posted = poster.post(&Payload::new("Test", "Test"), now).await;
            assert_eq!(posted.outcome, outcome, "{posted:?}");
            let request = request(server).await;
            assert_eq!(request.contains("plain_text"), outcome == Outcome::Accepted);
        }
    }

    #[test]
    fn retry_after_reads_seconds_and_dates() {
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        let read = |value: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            if let Some(date) = date {
                headers.insert(DATE, date.parse().unwrap());
            }
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(read("0", None), Some(0));
        assert_eq!(read(" 120 ", None), Some(120));
        assert_eq!(read("99999999999999999999999", None), Some(u64::MAX));
        let date = "Fri, 20 Nov 2026 10:02:00 GMT";
        assert_eq!(read(date, None), Some(120));
        assert_eq!(read(date, Some("Fri, 20 Nov 2026 10:01:50 GMT")), Some(10));
        assert_eq!(read("Fri, 20 Nov 2026 09:00:00 GMT", None), Some(0));
        for nonsense in ["", "-1", "1.5", "soon", "+7"] {
            assert_eq!(read(nonsense, None), None, "{nonsense}");
        }
    }
}
