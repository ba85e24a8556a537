//! A bare tokio echo server and its client: what a machine takes for connecting,
//! writing, reading and closing, to hold `kms-core serve` against. `bench/server`
//! runs it; no program of the house has any of it.
//!
//! ```text
//! echo serve                         prints its port on 127.0.0.1, serves until killed
//! echo ask PORT CONNECTIONS N [ROUNDS]   N connections, so many at once, each with
//!                                    ROUNDS writes and reads (1) before it closes
//! echo keep PORT CONNECTIONS N       N writes and reads over connections that stay
//! ```
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "figures are for people; measuring reads a clock"
)]

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kms_core::client::connect;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::timeout;

type Failure = Box<dyn Error + Send + Sync>;

/// As long as a request in NDR64.
const MESSAGE: [u8; 300] = [7; 300];

/// As the load generator waits.
const WITHIN: Duration = Duration::from_secs(10);

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // The runtimes of `kms-core serve` and of `kms-core request`.
    match *args.as_slice() {
        ["serve"] => Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(serve()),
        [
            what @ ("ask" | "keep"),
            port,
            connections,
            number,
            ref rounds @ ..,
        ] => {
            let load = Load {
                to: (Ipv4Addr::LOCALHOST, port.parse()?).into(),
                left: AtomicU64::new(number.parse()?),
                rounds: rounds.first().map_or(Ok(1), |rounds| rounds.parse())?,
                keep: what == "keep",
            };
            let ask = ask(Arc::new(load), connections.parse()?);
            Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(ask)
        }
        _ => Err("echo serve | ask PORT CONNECTIONS N [ROUNDS] | keep PORT CONNECTIONS N".into()),
    }
}

async fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let read = buffer.get(..count).unwrap_or_default();
                if stream.write_all(read).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// What all connections have in common.
struct Load {
    to: SocketAddr,
    left: AtomicU64,
    rounds: u32,
    keep: bool,
}

async fn ask(load: Arc<Load>, connections: usize) -> Result<(), Failure> {
    let number = load.left.load(Ordering::Relaxed);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(one_after_another(Arc::clone(&load)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate, to whole numbers")]
    let rate = number as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0}");
    Ok(())
}

async fn one_after_another(load: Arc<Load>) -> Result<(), Failure> {
    let mut kept = None;
    let take = |left: u64| left.checked_sub(1);
    while load
        .left
        .try_update(Ordering::Relaxed, Ordering::Relaxed, take)
        .is_ok()
    {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => connect(load.to, None, WITHIN).await?,
        };
        for _ in 0..load.rounds {
            timeout(WITHIN, echo(&mut stream)).await??;
        }
        kept = Some(stream).filter(|_| load.keep);
    }
    Ok(())
}

async fn echo(stream: &mut TcpStream) -> Result<(), Failure> {
    stream.write_all(&MESSAGE).await?;
    let mut answer = [0; 1024];
    let mut read = 0;
    while read < MESSAGE.len() {
        let room = answer.get_mut(read..).unwrap_or_default();
        match stream.read(room).await? {
            0 => return Err("the server closed the connection".into()),
            count => read += count,
        }
    }
    Ok(())
}
