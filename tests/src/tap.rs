//! A tap: passes connections on to somebody, and keeps a copy of what was said.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use crate::Watch;

/// What was said on one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tape {
    /// By who connected.
    pub up: Vec<u8>,
    /// By who was connected to.
    pub down: Vec<u8>,
    /// Directions that have come to their end.
    ended: u8,
}

/// A running tap; its threads end with their connections, or the process.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    tapes: Arc<Watch<Vec<Tape>>>,
}

impl Tap {
    /// Listens on a free port, and connects to `to` for each connection there.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let tapes = Arc::new(Watch::new(Vec::new()));
        let all = Arc::clone(&tapes);
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.expect("a connection that came can be taken");
                let Ok(far) = TcpStream::connect(to) else {
                    continue; // it hears that by being closed
                };
                let number = all.update(|tapes| {
                    tapes.push(Tape::default());
                    tapes.len() - 1
                });
                for (from, to, up) in [(&near, &far, true), (&far, &near, false)] {
                    let clone =
                        |stream: &TcpStream| stream.try_clone().expect("one more descriptor");
                    let (from, to, all) = (clone(from), clone(to), Arc::clone(&all));
                    thread::spawn(move || pass(from, to, up, number, &all));
                }
            }
        });
        Self { address, tapes }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was said on each connection that both sides have ended, once there are
    /// so many of them.
    ///
    /// # Panics
    /// When there never are.
    #[must_use]
    pub fn ended(&self, n: usize) -> Vec<Tape> {
        self.tapes.wait_for(&format!("{n} connections"), |tapes| {
            let ended = tapes.iter().filter(|tape| tape.ended == 2);
            let ended: Vec<_> = ended.cloned().collect();
            (ended.len() >= n).then_some(ended)
        })
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, up: bool, number: usize, all: &Watch<Vec<Tape>>) {
    // Odd on purpose: PDUs are cut in the middle.
    let mut bytes = [0; 101];
    let keep = |said: &[u8]| {
        all.update(|tapes| {
            let tape = tapes.get_mut(number).expect("it was pushed before");
            let side = if up { &mut tape.up } else { &mut tape.down };
            side.extend_from_slice(said);
            tape.ended += u8::from(said.is_empty());
        });
    };
    // An error on either side is an end, too.
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let said = bytes.get(..read).unwrap_or_default();
        keep(said);
        if to.write_all(said).is_err() {
            break;
        }
    }
    keep(&[]);
    // It may be closed already.
    let _ = to.shutdown(Shutdown::Write);
}
