//! A Slack incoming webhook on loopback that behaves as a test tells it to.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::Watch;

/// What the fake does with one post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// 200 and `ok`, as Slack accepts a message.
    Accept,
    /// 429 with this text as `Retry-After` (seconds, or whatever a test sends).
    RateLimit(String),
    /// This status and a short body.
    Status(u16),
    /// 302 to this place; a redirect must not be followed.
    Redirect(String),
    /// Takes the message and never answers.
    Stall,
    /// Takes the message and closes the connection without an answer.
    Cut,
}

/// One request as it arrived.
#[derive(Clone, PartialEq)]
pub struct Post {
    /// Method, path and content type.
    pub head: (String, String, String),
    /// The body's bytes.
    pub body: Vec<u8>,
    /// What the fake then did with it.
    pub answer: Behaviour,
}

impl Post {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a post's body is JSON")
    }

    /// The labels and values that a message about one client shows; empty for a
    /// digest.
    #[must_use]
    pub fn fields(&self) -> BTreeMap<String, String> {
        let json = self.json();
        let fields = blocks(&json).flat_map(|block| list(block, "/fields"));
        let texts = fields.filter_map(|field| field.pointer("/text")?.as_str()?.split_once('\n'));
        texts
            .map(|(label, value)| (label.to_owned(), value.to_owned()))
            .collect()
    }

    /// The lines of a digest; empty for a message about one client.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let json = self.json();
        let sections = blocks(&json).skip(1); // the title
        let texts = sections.filter_map(|section| section.pointer("/text/text")?.as_str());
        texts.flat_map(str::lines).map(str::to_owned).collect()
    }
}

fn blocks(message: &Value) -> impl Iterator<Item = &Value> {
    list(message, "/blocks")
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{body} -> {:?}", self.answer)
    }
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Behaviour>,
    posts: Vec<Post>,
}

/// A real HTTP server on 127.0.0.1 that plays Slack until it is dropped.
#[derive(Debug)]
pub struct FakeSlack {
    address: SocketAddr,
    state: Arc<Watch<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeSlack {
    /// Starts on a free port. Posts meet the behaviours of `script` one after
    /// the other; those after its end are accepted.
    #[must_use]
    pub fn start(script: impl IntoIterator<Item = Behaviour>) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let state = State {
            script: script.into_iter().collect(),
            posts: Vec::new(),
        };
        let state = Arc::new(Watch::new(state));
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || serve(listener, &shared, stopped));
        Self {
            address,
            state,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// A webhook URL of Slack's shape, with a secret that must never be printed:
    /// [`Self::SECRET`].
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "http://{}/services/T0000/B0000/{}",
            self.address,
            Self::SECRET
        )
    }

    /// The part of [`Self::url`] that gives the right to post.
    pub const SECRET: &str = "uUnspeakableSecretOfTheWebhook";

    /// Appends to the script.
    pub fn then(&self, behaviour: Behaviour) {
        self.state.update(|state| state.script.push_back(behaviour));
    }

    /// Forgets the rest of the script: from now on posts are accepted.
    pub fn relent(&self) {
        self.state.update(|state| state.script.clear());
    }

    /// Everything posted so far.
    #[must_use]
    pub fn posts(&self) -> Vec<Post> {
        self.state.lock().posts.clone()
    }

    /// Waits until at least `n` requests arrived, whatever was answered, and
    /// returns all there are.
    ///
    /// # Panics
    /// When the deadline passes first.
    #[must_use]
    pub fn wait_for(&self, n: usize) -> Vec<Post> {
        self.state.wait_for(&format!("{n} posts"), |state| {
            (state.posts.len() >= n).then(|| state.posts.clone())
        })
    }
}

impl Drop for FakeSlack {
    fn drop(&mut self) {
        // Dropping the sender is the signal.
        drop(self.stop.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn serve(listener: TcpListener, state: &Arc<Watch<State>>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    // Dropping the runtime at the end drops stalled connections with it.
    runtime.expect("a runtime starts").block_on(async {
        listener
            .set_nonblocking(true)
            .expect("a listener can be non-blocking");
        let listener =
            tokio::net::TcpListener::from_std(listener).expect("the runtime takes the listener");
        let accept = async {
            loop {
                let (stream, _) = listener.accept().await.expect("loopback accepts");
                let state = Arc::clone(state);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        };
        tokio::select! {
            _ = stopped => {}
            () = accept => {}
        }
    });
}

/// The connection ends without an answer when the service fails.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut as the script says")
    }
}

impl std::error::Error for Cut {}

async fn answer(
    state: Arc<Watch<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Cut> {
    let content_type = request
        .headers()
        .get(CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let head = (
        request.method().to_string(),
        request.uri().path().to_owned(),
        content_type.unwrap_or_default().into_owned(),
    );
    let is_post = request.method() == Method::POST;
    // A client that goes away in the middle of its body has posted nothing.
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(|_| Cut)?
        .to_bytes()
        .to_vec();
    let behaviour = state.update(|state| {
        let next = if is_post {
            state.script.pop_front()
        } else {
            Some(Behaviour::Status(405))
        };
        let answer = next.unwrap_or(Behaviour::Accept);
        state.posts.push(Post {
            head,
            body,
            answer: answer.clone(),
        });
        answer
    });
    let response = Response::builder();
    let (response, text) = match behaviour {
        Behaviour::Accept => (response, "ok"),
        Behaviour::RateLimit(after) => (
            response.status(429).header(RETRY_AFTER, after),
            "rate_limited",
        ),
        Behaviour::Status(status) => (response.status(status), "said_the_script"),
        Behaviour::Redirect(to) => (
            response.status(StatusCode::FOUND).header("location", to),
            "",
        ),
        Behaviour::Stall => match std::future::pending::<Infallible>().await {},
        Behaviour::Cut => return Err(Cut),
    };
    Ok(response
        .body(Full::from(text))
        .expect("the script's status and headers are valid"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::{Behaviour, FakeSlack};

    fn post(
        slack: &FakeSlack,
        text: &str,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0);
        let agent = agent.max_redirects_will_error(false).build().new_agent();
        let body = serde_json::json!({ "text": text }).to_string();
        agent
            .post(slack.url())
            .content_type("application/json")
            .send(body)
    }

    #[test]
    fn answers_follow_the_script_and_posts_are_kept() {
        let script = [
            Behaviour::Accept,
            Behaviour::RateLimit("7".into()),
            Behaviour::Status(500),
            Behaviour::Redirect("http://127.0.0.1:9/".into()),
            Behaviour::Cut,
        ];
        let slack = FakeSlack::start(script.clone());
        let mut first = post(&slack, "one").unwrap();
        assert_eq!(
            (
                first.status().as_u16(),
                first.body_mut().read_to_string().unwrap().as_str()
            ),
            (200, "ok")
        );
        let limited = post(&slack, "two").unwrap();
        assert_eq!(
            (limited.status().as_u16(), &limited.headers()["retry-after"]),
            (429, &"7".parse().unwrap())
        );
        assert_eq!(post(&slack, "three").unwrap().status(), 500);
        assert_eq!(post(&slack, "four").unwrap().status(), 302);
        post(&slack, "five").expect_err("the connection is cut");
        slack.then(Behaviour::Status(404));
        assert_eq!(post(&slack, "six").unwrap().status(), 404);
        assert_eq!(post(&slack, "seven").unwrap().status(), 200);

        let posts = slack.wait_for(7);
        let texts: Vec<_> = posts
            .iter()
            .map(|post| post.json()["text"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            texts,
            ["one", "two", "three", "four", "five", "six", "seven"]
        );
        assert_eq!(
            posts[..5]
                .iter()
                .map(|post| post.answer.clone())
                .collect::<Vec<_>>(),
            script
        );
        let (method, path, content_type) = &posts[0].head;
        assert_eq!(
            (method.as_str(), content_type.as_str()),
            ("POST", "application/json")
        );
        assert!(slack.url().ends_with(path) && path.ends_with(FakeSlack::SECRET));
    }

    #[test]
    fn a_stalled_post_is_recorded_and_ends_with_the_server() {
        let slack = FakeSlack::start([Behaviour::Stall]);
        let mut stream = TcpStream::connect(slack.address).unwrap();
        stream
            .write_all(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            .unwrap();
        assert_eq!(slack.wait_for(1)[0].answer, Behaviour::Stall);
        drop(slack);
        // The other side is gone: an end or a reset, but not one byte of an answer.
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{end:?} {rest:?}");
    }
}
