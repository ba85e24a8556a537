//! The store against a real `redis-server`, where there is one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use super::super::claims::{Claims, Ticket, Verdict};
use super::super::model::ModelStore;
use super::super::{Holder, StoreKey};
use super::*;
use crate::event::EventId;

const PASSWORD: &str = "a password";

/// A server on a free port of this machine, ended with the test.
struct Server {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Server {
    /// None, and a word about it, where it is not installed.
    fn start(tls: Option<&Tls>) -> Option<Self> {
        // A port that was free a moment ago may be somebody's by now.
        for _ in 0..10 {
            let directory = tempfile::tempdir().unwrap();
            let port = free_port();
            configure(&directory, port, tls);
            match spawn(&directory) {
                Ok(Some(child)) => {
                    return Some(Self {
                        child,
                        port,
                        directory,
                    });
                }
                Ok(None) => {
                    let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
                    assert!(!ci, "redis-server is missing, and CI tests everything");
                    eprintln!("skipped: install redis-server to test the shared store");
                    return None;
                }
                Err(said) => eprintln!("redis-server did not start: {said:#?}"),
            }
        }
        panic!("no free port for redis-server");
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = spawn(&self.directory).unwrap().unwrap();
    }

    fn store(&self) -> RedisStore {
        store(
            &format!("redis://127.0.0.1:{}/3", self.port),
            Some(PASSWORD),
            None,
        )
        .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn configure(directory: &TempDir, port: u16, tls: Option<&Tls>) {
    let mut config = format!("bind 127.0.0.1\nrequirepass {PASSWORD:?}\nsave \"\"\n");
    match tls {
        None => config += &format!("port {port}\n"),
        Some(tls) => {
            for (name, text) in [("cert", &tls.certificate), ("key", &tls.key)] {
                let path = directory.path().join(name);
                fs::write(&path, text).unwrap();
                config += &format!("tls-{name}-file {}\n", path.display());
            }
            config += &format!("port 0\ntls-port {port}\ntls-auth-clients no\n");
        }
    }
    fs::write(directory.path().join("redis.conf"), config).unwrap();
}

/// The server once it takes connections; none if there is no such program, and
/// what it said if it ended.
fn spawn(directory: &TempDir) -> Result<Option<Child>, Vec<String>> {
    let spawned = Command::new("redis-server")
        .arg("redis.conf")
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        return Ok(None);
    };
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut before = Vec::new();
    for line in said.map_while(Result::ok) {
        if line.contains("Ready to accept connections") {
            return Ok(Some(child));
        }
        before.push(line);
    }
    child.wait().unwrap();
    Err(before)
}

fn store(url: &str, password: Option<&str>, pem: Option<&[u8]>) -> Result<RedisStore, StoreError> {
    RedisStore::new(&Access {
        url,
        password,
        authorities: pem,
        timeout: Duration::from_secs(10),
    })
}

struct Tls {
    certificate: String,
    key: String,
}

impl Tls {
    fn new() -> Self {
        let names = vec!["localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }
}

fn request(key: u8, event: u8, act: Act) -> Request {
    let holder = Holder {
        event: EventId([event; 16]),
        sidecar: 7,
    };
    let key = StoreKey::of(&[&[key]]);
    Request { key, holder, act }
}

fn without_times(answer: Answer) -> Answer {
    match answer {
        Answer::Theirs { expires_in } => {
            assert!(expires_in <= CLAIM_LIFE);
            let expires_in = Duration::ZERO;
            Answer::Theirs { expires_in }
        }
        Answer::Told { left } => {
            assert!(left <= Duration::from_secs(3600));
            let left = Duration::ZERO;
            Answer::Told { left }
        }
        other => other,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a real server lives in real time"
)]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn it_does_what_the_model_does() {
    let Some(server) = Server::start(None) else {
        return;
    };
    let (mut store, mut model) = (server.store(), ModelStore::default());
    let acts = [
        Act::Claim,
        Act::Tell(Duration::from_secs(3600)),
        Act::Release,
    ];
    // Claims more often than what ends them.
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..40 {
        let requests: Vec<Request> = (0..random.usize(1..50))
            .map(|_| {
                let act = acts[[0, 0, 0, 0, 1, 2, 2][random.usize(..7)]];
                request(random.u8(..40), random.u8(..3), act)
            })
            .collect();
        let now = now();
        let expected = requests
            .iter()
            .map(|request| without_times(model.carry_out(request, now)));
        let answers = store.carry_out(&requests).await.unwrap();
        let answers: Vec<Answer> = answers.into_iter().map(without_times).collect();
        assert_eq!(answers, expected.collect::<Vec<_>>(), "{requests:?}");
    }
}

#[tokio::test]
async fn claims_run_out_and_values_are_what_the_docs_say() {
    let Some(server) = Server::start(None) else {
        return;
    };
    let mut store = server.store();
    let requests = [
        request(1, 1, Act::Claim),
        request(2, 2, Act::Tell(Duration::from_secs(1000))),
        request(3, 3, Act::Tell(Duration::ZERO)),
    ];
    assert_eq!(store.carry_out(&requests).await.unwrap().len(), 3);
    let mut connection = store.connection.clone().unwrap();
    for (key, value, life) in [(1, "01", 120_000), (2, "02", 1_000_000)] {
        let name = format!("{PREFIX}{}", StoreKey::of(&[&[key]]));
        let (held, left): (String, u64) = ::redis::pipe()
            .cmd("GET")
            .arg(&name)
            .cmd("PTTL")
            .arg(&name)
            .query_async(&mut connection)
            .await
            .unwrap();
        let told = if key == 2 { " told" } else { "" };
        assert_eq!(held, format!("{}:0000000000000007{told}", value.repeat(16)));
        assert!(left <= life && left > life - 60_000);
    }
    // A value without an end (somebody restored it) gets one.
    let name = format!("{PREFIX}{}", StoreKey::of(&[&[4]]));
    let _: () = ::redis::cmd("SET")
        .arg(&name)
        .arg("x")
        .query_async(&mut connection)
        .await
        .unwrap();
    let answer = store.carry_out(&[request(4, 4, Act::Claim)]).await.unwrap();
    assert_eq!(
        without_times(answer[0]),
        Answer::Theirs {
            expires_in: Duration::ZERO
        }
    );
    let left: i64 = ::redis::cmd("PTTL")
        .arg(&name)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(left > 0);
}

/// docs/shared-dedup.md promises that these rights are enough.
#[tokio::test]
async fn few_rights_are_enough() {
    let Some(server) = Server::start(None) else {
        return;
    };
    let mut admin = server.store();
    let claim = [request(1, 1, Act::Claim)];
    admin.carry_out(&claim).await.unwrap();
    let rights = "on >few ~kms-notifier:dedup:1:* resetchannels -@all \
                  +eval +get +set +del +pttl +pexpire +select";
    let mut grant = ::redis::cmd("ACL");
    grant.arg("SETUSER").arg("notifier");
    for right in rights.split_ascii_whitespace() {
        grant.arg(right);
    }
    let mut connection = admin.connection.clone().unwrap();
    let _: () = grant.query_async(&mut connection).await.unwrap();
    let url = format!("redis://notifier@127.0.0.1:{}/3", server.port);
    let mut few = store(&url, Some("few"), None).unwrap();
    let window = Duration::from_secs(60);
    for acts in [
        [Act::Claim, Act::Claim, Act::Release],
        [Act::Claim, Act::Tell(window), Act::Claim],
    ] {
        let requests = acts.map(|act| request(2, 2, act));
        assert_eq!(few.carry_out(&requests).await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn two_sidecars_agree_and_go_on_when_the_server_is_gone_and_back() {
    let Some(mut server) = Server::start(None) else {
        return;
    };
    let mut stores = [server.store(), server.store()];
    let window = Duration::from_secs(3600);
    let mut claims = [Claims::new(window, 1), Claims::new(window, 2)];
    let (key, other) = (
        StoreKey::of(&[b"client", b"product"]),
        StoreKey::of(&[b"other"]),
    );
    let mut at = now();
    for (number, claims) in (1..).zip(&mut claims) {
        claims.handle_post(Ticket(1), key, EventId([number; 16]), at);
    }
    let mut verdicts = Vec::new();
    for (claims, store) in claims.iter_mut().zip(&mut stores) {
        let requests = claims.poll_requests(at);
        assert_eq!(
            claims.handle_answers(store.carry_out(&requests).await, at),
            None
        );
        verdicts.push(claims.poll_verdict());
    }
    assert_eq!(verdicts, [Some((Ticket(1), Verdict::Post)), None]);

    server.stop();
    for (claims, store) in claims.iter_mut().zip(&mut stores) {
        claims.handle_post(Ticket(2), other, EventId([9; 16]), at);
        let requests = claims.poll_requests(at);
        let change = claims.handle_answers(store.carry_out(&requests).await, at);
        assert!(matches!(
            change,
            Some(super::super::claims::Change::Lost(_))
        ));
        assert_eq!(claims.poll_verdict(), Some((Ticket(2), Verdict::Post)));
    }
    claims[0].handle_told(Ticket(1), key, EventId([1; 16]), at);

    server.start_again();
    for (claims, store) in claims.iter_mut().zip(&mut stores) {
        at = at.max(claims.next_due().unwrap()) + Duration::from_secs(6);
        let requests = claims.poll_requests(at);
        let change = claims.handle_answers(store.carry_out(&requests).await, at);
        assert!(matches!(
            change,
            Some(super::super::claims::Change::Back { .. })
        ));
    }
    // The second hears what the first could say only now.
    // That both tell of the other key is known now, too.
    let mut verdicts: Vec<_> = std::iter::from_fn(|| claims[1].poll_verdict()).collect();
    verdicts.sort_by_key(|(ticket, _)| *ticket);
    let [
        (Ticket(1), Verdict::Repeat { left }),
        (Ticket(2), Verdict::Hold),
    ] = verdicts[..]
    else {
        panic!("{verdicts:?}");
    };
    assert!(left <= window && left > window / 2);
}

#[tokio::test]
async fn tls_is_checked_against_the_authority_that_was_given() {
    let tls = Tls::new();
    let Some(server) = Server::start(Some(&tls)) else {
        return;
    };
    let url = format!("rediss://localhost:{}", server.port);
    let pem = tls.certificate.as_bytes();
    let mut right = store(&url, Some(PASSWORD), Some(pem)).unwrap();
    let claim = [request(1, 1, Act::Claim)];
    assert_eq!(right.carry_out(&claim).await, Ok(vec![Answer::Ours]));
    // The public authorities did not sign it.
    let mut wrong = store(&url, Some(PASSWORD), None).unwrap();
    assert!(wrong.carry_out(&claim).await.is_err());
    let mut plain = store(&url.replace("rediss", "redis"), Some(PASSWORD), None).unwrap();
    assert!(plain.carry_out(&claim).await.is_err());
}

#[tokio::test]
async fn a_wrong_password_and_a_server_that_says_nothing_are_errors() {
    let Some(server) = Server::start(None) else {
        return;
    };
    let claim = [request(1, 1, Act::Claim)];
    let url = format!("redis://127.0.0.1:{}", server.port);
    let mut refused = store(&url, Some("secret-text"), None).unwrap();
    let error = refused.carry_out(&claim).await.unwrap_err().to_string();
    assert!(!error.contains("secret-text"), "{error}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut store = RedisStore::new(&Access {
        url: &format!("redis://:secret-text@{}", silent.local_addr().unwrap()),
        password: None,
        authorities: None,
        timeout: Duration::from_millis(50),
    })
    .unwrap();
    let error = store.carry_out(&claim).await.unwrap_err().to_string();
    assert!(!error.contains("secret-text"), "{error}");
}

#[test]
fn what_is_no_store_is_refused_without_a_word_of_the_url() {
    for (url, pem) in [
        ("", None),
        ("localhost:6379", None),
        ("http://secret-text/", None),
        ("redis://:secret-text@host:1/x", None),
        ("rediss://secret-text/#insecure", None),
        ("unix:///secret-text", None),
        ("redis://secret-text", Some(&b"pem"[..])),
        ("redis://:secret-text@host", None),
    ] {
        // A second password for one that has one.
        let Err(error) = store(url, url.contains(":secret").then_some("p"), pem) else {
            panic!("{url} was taken");
        };
        assert!(!error.to_string().contains("secret-text"), "{error}");
    }
    for url in ["redis://host", "redis://user@host:1/2", "rediss://[::1]:1"] {
        assert!(store(url, Some("p"), None).is_ok(), "{url}");
    }
}
