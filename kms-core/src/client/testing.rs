//! A lab host for the tests of the edges: the responder behind real streams.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::lab::LabSuite;
use crate::responder::{Action, Association, AssociationSettings, Env, Host, Policy, Step};

/// Answers on this stream until it ends.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, policy: Policy) {
    serve_some(stream, policy, usize::MAX).await;
}

/// The same for so many PDUs; then it closes.
pub(crate) async fn serve_some(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    policy: Policy,
    mut pdus: usize,
) {
    let mut random = |bytes: &mut [u8]| bytes.fill(4);
    let mut host = Host::new(policy, Box::new(LabSuite), &mut random);
    let mut association = Association::new(AssociationSettings::new(NonZeroU32::MIN, 1688));
    let mut received = Vec::new();
    while pdus > 0 {
        let env = Env {
            host: &mut host,
            now: Timestamp::UNIX_EPOCH,
            random: &mut random,
        };
        let mut reply = Vec::new();
        match association.handle(&received, env, &mut reply) {
            Step::NeedMore { .. } => {
                if !matches!(stream.read_buf(&mut received).await, Ok(1..)) {
                    return;
                }
            }
            Step::Done(outcome) => {
                received.drain(..outcome.consumed);
                pdus -= 1;
                let sent = stream.write_all(&reply).await;
                if sent.is_err() || !matches!(outcome.action, Action::Send | Action::Continue) {
                    return;
                }
            }
        }
    }
}

/// A listener on a free port that does this with every connection.
pub(crate) async fn listen<F>(
    each: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    address
}
