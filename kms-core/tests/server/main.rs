//! The server over real sockets: raw bytes in, raw bytes out.
//!
//! Where time matters tokio's clock is stopped. It then jumps to the next timer
//! whenever everything waits, so a deadline of ten seconds passes at once, and
//! what did not need it was there before.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod admin;
mod answers;
mod limits;
mod log;
mod proxy;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use kms_core::exposition::Format;
use kms_core::http;
use kms_core::lab::LabSuite;
use kms_core::responder::{Host, Policy};
use kms_core::server::{
    Front, FrontSettings, Log, LogSettings, Metrics, Responder, ResponderSettings, Target,
    fill_random,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// How long a test waits for what should happen at once. With the clock stopped
/// it is longer than any deadline that a test is about.
const DEADLINE: Duration = Duration::from_secs(600);

/// A running server and where it writes.
struct Server {
    address: SocketAddr,
    front: Front,
    log: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _directory: TempDir,
}

struct Setup {
    listen: &'static str,
    front: FrontSettings,
    responder: ResponderSettings,
    ids: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0",
            front: FrontSettings::default(),
            responder: ResponderSettings::default(),
            ids: false,
        }
    }
}

impl Setup {
    async fn start(self) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kms.log");
        let settings = LogSettings {
            stamps: None,
            ids: self.ids,
        };
        let log = Log::open(Target::File(path.clone()), settings).unwrap();
        let metrics = Metrics::default();
        let host = Host::new(Policy::default(), Box::new(LabSuite), &mut fill_random);
        let responder = Responder::new(host, self.responder, log.clone(), metrics.clone());
        let front = Front::new(self.front, log, metrics).unwrap();
        let listener = http::listen(self.listen.parse().unwrap(), false, 128).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = front.clone();
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or_default() };
            running.run(vec![listener], responder, stopped).await;
        });
        Server {
            address,
            front,
            log: path,
            stop,
            task,
            _directory: directory,
        }
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn connect_from(&self, source: &str) -> TcpStream {
        let source: IpAddr = source.parse().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        let port = self.address.port();
        socket.connect(([127, 0, 0, 1], port).into()).await.unwrap()
    }

    /// The value of a counter or gauge, as a scrape shows it.
    fn metric(&self, name: &str) -> u64 {
        let text = self
            .front
            .metrics()
            .encode(Format::Classic, self.front.snapshot())
            .unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    fn ended(&self, reason: &str) -> u64 {
        self.metric(&format!(
            "kms_core_connections_closed_total{{reason=\"{reason}\"}}"
        ))
    }

    /// Waits until connections that ended are out of the books.
    async fn until_open(&self, connections: u64) {
        timeout(DEADLINE, async {
            while self.metric("kms_core_connections_open") != connections {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    /// Stops it, and gives what it logged.
    async fn stop(self) -> String {
        self.stop.send(()).unwrap();
        timeout(DEADLINE, self.task).await.unwrap().unwrap();
        let log = self.front.log().clone();
        // The writer is a thread. While something blocks, a stopped clock does not
        // jump over its head.
        let runtime = Handle::current();
        let finish = move || runtime.block_on(log.finish(DEADLINE));
        assert!(spawn_blocking(finish).await.unwrap());
        std::fs::read_to_string(&self.log).unwrap()
    }
}

/// Sends, and reads one PDU.
async fn ask(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    answer(stream).await
}

async fn answer(stream: &mut TcpStream) -> Vec<u8> {
    let mut pdu = vec![0; 16];
    stream.read_exact(&mut pdu).await.unwrap();
    pdu.resize(usize::from(u16::from_le_bytes([pdu[8], pdu[9]])), 0);
    stream.read_exact(&mut pdu[16..]).await.unwrap();
    pdu
}

/// Everything until the server closes; a reset counts as that.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut all))
        .await
        .unwrap();
    all
}
