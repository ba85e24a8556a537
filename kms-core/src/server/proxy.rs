//! The PROXY protocol (versions 1 and 2), by which a load balancer says whom it
//! speaks for. It is believed only from listed peers, and of those expected: a
//! port that guesses can be lied to.

use std::io;
use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest header in bytes. Version 1 has at most 107; in version 2 a balancer
/// may tell names and certificates after the addresses, of which nothing is used.
pub const MAX_PROXY_HEADER: usize = 2048;

/// What a listed peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyOutcome {
    /// An address that it speaks for.
    Address,
    /// It speaks for itself (a health check), or does not say.
    Local,
    /// No header, a broken one, too long a one, or none in time.
    Broken,
}

impl ProxyOutcome {
    /// Every outcome, for counters that are there from the start.
    pub const ALL: [Self; 3] = [Self::Address, Self::Local, Self::Broken];

    /// One word, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Local => "local",
            Self::Broken => "broken",
        }
    }
}

/// A header, and what was read behind it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Introduction {
    /// None: the peer speaks for itself.
    pub(super) client: Option<SocketAddr>,
    /// The connection's first bytes.
    pub(super) early: Vec<u8>,
}

/// Reads the header. None if there is none, or none that is right.
///
/// # Errors
/// Of the connection.
pub(super) async fn introduction(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Introduction>> {
    let mut received = Vec::with_capacity(128);
    loop {
        match proxy_header(&received) {
            Ok(Some((client, len))) => {
                received.drain(..len);
                return Ok(Some(Introduction {
                    client,
                    early: received,
                }));
            }
            Ok(None) if received.len() < MAX_PROXY_HEADER => {}
            _ => return Ok(None),
        }
        let room = MAX_PROXY_HEADER - received.len();
        let room = u64::try_from(room).unwrap_or(u64::MAX);
        if stream.take(room).read_buf(&mut received).await? == 0 {
            return Ok(None);
        }
    }
}

/// Bytes that begin no PROXY header of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY header of a TCP connection")]
pub struct NoProxyHeader;

/// Reads the PROXY header (version 1 or 2) that a connection begins with: the
/// client's address, none where the peer speaks for itself, and the header's length
/// in bytes. None where it is not whole yet.
///
/// # Errors
/// [`NoProxyHeader`]
pub fn proxy_header(received: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, NoProxyHeader> {
    let config = ParseConfig {
        include_tlvs: false,
        allow_v1: true,
        allow_v2: true,
    };
    let (header, len) = match ProxyHeader::parse(received, config) {
        Ok(header) => header,
        Err(Error::BufferTooShort) => return Ok(None),
        Err(_) => return Err(NoProxyHeader),
    };
    let client = match header.proxied_address() {
        Some(address) if address.protocol != Protocol::Stream => return Err(NoProxyHeader),
        Some(address) => Some(address.source),
        None => None,
    };
    Ok(Some((client, len)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Introduction, MAX_PROXY_HEADER, introduction, proxy_header};

    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &len, payload].concat()
    }

    /// 192.0.2.15:49731 to 198.51.100.1:1688
    const ADDRESSES: [u8; 12] = [192, 0, 2, 15, 198, 51, 100, 1, 0xC2, 0x43, 0x06, 0x98];

    async fn read(bytes: &[u8]) -> Option<Introduction> {
        introduction(&mut &*bytes).await.unwrap()
    }

    #[tokio::test]
    async fn both_versions_tell_the_client_and_leave_the_rest() {
        let client = Some("192.0.2.15:49731".parse().unwrap());
        let mut tlv = ADDRESSES.to_vec();
        tlv.extend([0x04, 0, 2, 9, 9]);
        for header in [
            b"PROXY TCP4 192.0.2.15 198.51.100.1 49731 1688\r\n".to_vec(),
            v2(0x21, 0x11, &ADDRESSES),
            v2(0x21, 0x11, &tlv),
        ] {
            let early = b"\x05\x00rest".to_vec();
            let bytes = [header, early.clone()].concat();
            assert_eq!(read(&bytes).await, Some(Introduction { client, early }));
        }
    }

    #[tokio::test]
    async fn a_health_check_has_no_client() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(),
            v2(0x20, 0x00, &[]),
            v2(0x20, 0x11, &ADDRESSES),
            v2(0x21, 0x00, &[]),
        ] {
            let local = Introduction {
                client: None,
                early: Vec::new(),
            };
            assert_eq!(read(&header).await, Some(local), "{header:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_none() {
        let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        for bytes in [
            Vec::new(),
            b"\x05\x00\x0b\x03".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.15".to_vec(),
            b"PROXY TCP4 192.0.2.15 198.51.100.1 99999 1688\r\n".to_vec(),
            endless,
            v2(0x21, 0x12, &ADDRESSES), // UDP
            v2(0x21, 0x11, &ADDRESSES[..8]),
            v2(0x31, 0x11, &ADDRESSES),
            v2(0x21, 0x11, &[0; MAX_PROXY_HEADER]),
        ] {
            assert_eq!(read(&bytes).await, None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            head in prop_oneof![
                Just(Vec::new()),
                Just(b"PROXY ".to_vec()),
                Just(b"PROXY TCP4 ".to_vec()),
                Just(b"PROXY TCP6 ::1 ".to_vec()),
                Just(V2.to_vec()),
                Just([V2, &[0x21, 0x11, 0, 12]].concat()),
            ],
            tail in prop::collection::vec(any::<u8>(), 0..160),
        ) {
            let bytes = [head, tail].concat();
            if let Ok(Some((client, len))) = proxy_header(&bytes) {
                prop_assert!(len <= bytes.len());
                prop_assert_eq!(proxy_header(&bytes[..len]), Ok(Some((client, len))));
                for cut in 0..len {
                    prop_assert!(!matches!(proxy_header(&bytes[..cut]), Ok(Some(_))));
                }
            }
        }
    }
}
