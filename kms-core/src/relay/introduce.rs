//! PROXY headers for the upstreams: whom a connection is for.

use std::net::SocketAddr;

use proxy_header::{Error, ProxiedAddress, ProxyHeader};

use super::ProxyVersion;

impl ProxyVersion {
    /// The header of a connection that is for this client.
    ///
    /// # Errors
    /// None that addresses of one family have.
    pub(super) fn for_client(
        self,
        client: SocketAddr,
        upstream: SocketAddr,
    ) -> Result<Vec<u8>, Error> {
        let (client, upstream) = one_family(client, upstream);
        let addresses = ProxiedAddress::stream(client, upstream);
        self.encode(&ProxyHeader::with_address(addresses))
    }

    /// The header of a connection that the relay makes for itself, like a check: LOCAL
    /// in version 2, `PROXY UNKNOWN` in version 1, as the specification has it.
    ///
    /// # Errors
    /// As [`ProxyVersion::for_client`].
    pub(super) fn for_itself(self) -> Result<Vec<u8>, Error> {
        self.encode(&ProxyHeader::with_local())
    }

    fn encode(self, header: &ProxyHeader<'_>) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        match self {
            Self::V1 => header.encode_v1(&mut out)?,
            Self::V2 => header.encode_v2(&mut out)?,
        }
        Ok(out)
    }
}

/// A header has addresses of one family: IPv4 ones are mapped beside IPv6.
fn one_family(client: SocketAddr, upstream: SocketAddr) -> (SocketAddr, SocketAddr) {
    let mapped = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 @ SocketAddr::V6(_) => v6,
    };
    if client.is_ipv4() == upstream.is_ipv4() {
        (client, upstream)
    } else {
        (mapped(client), mapped(upstream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_for_nobody() {
        let header = |version: ProxyVersion| version.for_itself().unwrap();
        assert_eq!(header(ProxyVersion::V1), b"PROXY UNKNOWN\r\n");
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0";
        assert_eq!(header(ProxyVersion::V2), local);
    }

    #[test]
    fn families_are_not_mixed() {
        let v4 = "192.0.2.15:49731".parse().unwrap();
        let v6 = "[2001:db8::1]:1688".parse().unwrap();
        let header = ProxyVersion::V1.for_client(v4, v6).unwrap();
        let told = b"PROXY TCP6 ::ffff:192.0.2.15 2001:db8::1 49731 1688\r\n";
        assert_eq!(header, told);
    }
}
