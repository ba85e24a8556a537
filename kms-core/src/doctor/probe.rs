//! One address: TCP, RPC, KMS, and a second look at what is not RPC.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::client::{Bound, CallError, ClientError, Connection, Offer, connect};
use crate::pdu::{FaultStatus, PacketType};
use crate::stub::Encoding;
use crate::text;

use super::{Banner, Finding, Mark, Stage, Step};

/// What is asked where no RPC answers. A web server says who it is, whatever it
/// thinks of the question.
const QUESTION: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// How much of the answer is read, in bytes.
const MAX_ANSWER: usize = 512;

/// Longest text of the system, in characters.
const SYSTEM_TEXT: usize = 80;

/// What one address led to.
pub(super) struct Probe {
    pub(super) address: SocketAddr,
    pub(super) steps: Vec<Step>,
    pub(super) finding: Finding,
}

/// Examines one address; each step within this time.
pub(super) async fn probe(address: SocketAddr, within: Duration) -> Probe {
    let mut log = Log {
        subject: address.to_string(),
        steps: Vec::new(),
        began: Instant::now(),
    };
    let finding = match connect(address, None, within).await {
        Ok(stream) => {
            log.step(Stage::Tcp, Mark::Good, "connected");
            bind(address, stream, within, &mut log).await
        }
        Err(error) => {
            let finding = unconnected(&error);
            let (mark, detail) = match &finding {
                Finding::NoRoute => (Mark::Neutral, "no route from here".to_owned()),
                Finding::Refused => (Mark::Bad, "connection refused".to_owned()),
                Finding::Filtered => (Mark::Bad, "no answer (filtered?)".to_owned()),
                Finding::Unreachable(why) => (Mark::Bad, why.clone()),
                _ => (Mark::Bad, error.to_string()),
            };
            log.step(Stage::Tcp, mark, &detail);
            finding
        }
    };
    Probe {
        address,
        steps: log.steps,
        finding,
    }
}

fn unconnected(error: &CallError) -> Finding {
    match error {
        CallError::Io { error, .. } => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Finding::Refused,
            io::ErrorKind::TimedOut => Finding::Filtered,
            // The system has no route, or no address to come from.
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => Finding::NoRoute,
            _ => {
                let why = error.to_string();
                Finding::Unreachable(text::clean(why.as_bytes(), SYSTEM_TEXT).into_owned())
            }
        },
        _ => Finding::Filtered,
    }
}

async fn bind(address: SocketAddr, stream: TcpStream, within: Duration, log: &mut Log) -> Finding {
    let mut connection = Connection::new(stream, within);
    let error = match connection.bind(Offer::default()).await {
        Ok(bound) => {
            log.step(Stage::Rpc, Mark::Good, "bound");
            return syntaxes(&mut connection, bound, log).await;
        }
        Err(error) => error,
    };
    let banner = Banner::of(connection.received());
    let finding = match (&error, banner) {
        (CallError::Protocol(error), banner) => {
            not_bound(*error, banner.filter(|_| !is_rpc(connection.received())))
        }
        // It said something, then closed or fell silent.
        (_, Some(banner)) => Finding::NotRpc(banner),
        (CallError::Timeout { .. }, None) => Finding::Silent,
        (_, None) => Finding::Closed,
    };
    let detail = match &finding {
        Finding::NotRpc(banner) => banner.to_string(),
        Finding::Silent => "no answer to the bind".to_owned(),
        Finding::Closed => "closed without an answer".to_owned(),
        _ => error.to_string(),
    };
    if let Finding::NotKms(_) = finding {
        log.step(Stage::Rpc, Mark::Good, "answers");
        log.step(Stage::Kms, Mark::Bad, &detail);
        return finding;
    }
    log.step(Stage::Rpc, Mark::Bad, &detail);
    if matches!(finding, Finding::Silent | Finding::Closed)
        && let Some(banner) = second_look(address, within, log).await
    {
        return Finding::NotRpc(banner);
    }
    finding
}

/// Whether bytes that are no answer to a bind were meant as one: version 5 and a
/// type of PDU that servers send. Nothing else begins like that.
fn is_rpc(received: &[u8]) -> bool {
    let [5, 0 | 1, code, ..] = *received else {
        return false;
    };
    matches!(
        PacketType::from_code(code),
        PacketType::Response
            | PacketType::Fault
            | PacketType::BindAck
            | PacketType::BindNak
            | PacketType::AlterContextResponse
            | PacketType::Shutdown
    )
}

/// What an answer to the bind that accepts nothing says; `banner` is whoever else
/// speaks, if it is not RPC.
fn not_bound(error: ClientError, banner: Option<Banner>) -> Finding {
    match error {
        ClientError::Rejected { .. } => Finding::NotKms(error),
        // Servers of one interface say so with a fault, too.
        ClientError::Fault(FaultStatus::UNKNOWN_INTERFACE) => Finding::NotKms(error),
        ClientError::Nak(_) | ClientError::Fault(_) => Finding::BindRefused(error),
        ClientError::Frame(_) | ClientError::Pdu(_) => match banner {
            Some(banner) => Finding::NotRpc(banner),
            None => Finding::Nonsense(error),
        },
        _ => Finding::Nonsense(error),
    }
}

/// The encodings. A host that was given the choice takes one, so the other is
/// offered afterwards, as Windows does.
async fn syntaxes(connection: &mut Connection<TcpStream>, bound: Bound, log: &mut Log) -> Finding {
    let Bound {
        mut ndr32, ndr64, ..
    } = bound;
    if !ndr32 {
        ndr32 = connection
            .alter(Encoding::Ndr32)
            .await
            .is_ok_and(|altered| altered.ndr32);
    }
    let spoken = match (ndr32, ndr64) {
        (true, true) => "NDR64 and NDR32",
        (_, true) => "NDR64 only",
        _ => "NDR32 only",
    };
    let features = match bound.features {
        Some(features) => format!("bind time features 0x{features:04X}"),
        None => "no bind time features".to_owned(),
    };
    log.step(
        Stage::Kms,
        Mark::Good,
        &format!("interface accepted: {spoken}, {features}"),
    );
    Finding::Kms {
        ndr32,
        ndr64,
        features: bound.features,
    }
}

/// Asks as a browser would.
async fn second_look(address: SocketAddr, within: Duration, log: &mut Log) -> Option<Banner> {
    let mut answer = [0; MAX_ANSWER];
    let mut len = 0;
    let asking = async {
        let mut stream = connect(address, None, within).await.ok()?;
        stream.write_all(QUESTION).await.ok()?;
        while let Some(room @ [_, ..]) = answer.get_mut(len..) {
            let read = stream.read(room).await.ok().filter(|read| *read > 0)?;
            let line_ends = room.get(..read)?.contains(&b'\n');
            len += read;
            if line_ends {
                break;
            }
        }
        Some(())
    };
    // However it ended: what came until then is what there is.
    let _ = timeout(within, asking).await;
    let banner = Banner::of(answer.get(..len).unwrap_or_default());
    match &banner {
        Some(banner) => log.step(Stage::Http, Mark::Bad, &banner.to_string()),
        None => log.step(Stage::Http, Mark::Neutral, "no website either"),
    }
    banner
}

/// Steps as they are made; each takes from the one before until now.
struct Log {
    subject: String,
    steps: Vec<Step>,
    began: Instant,
}

impl Log {
    fn step(&mut self, stage: Stage, mark: Mark, detail: &str) {
        let now = Instant::now();
        self.steps.push(Step {
            stage,
            subject: self.subject.clone(),
            mark,
            detail: detail.to_owned(),
            took: now - self.began,
        });
        self.began = now;
    }
}
