//! Where a host is said to be: `kms.example.lan`, `192.0.2.7:1688`, `[2001:db8::7]`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The port of KMS.
pub const DEFAULT_PORT: u16 = 1688;

/// The longest name there is in DNS, in characters.
const LONGEST_NAME: usize = 253;

/// A host and a port. Text that parses has no character that could do harm in a
/// log or on a terminal.
///
/// ```
/// use kms_core::endpoint::Endpoint;
///
/// let endpoint: Endpoint = "kms.example.lan".parse()?;
/// assert_eq!(endpoint.to_string(), "kms.example.lan:1688");
/// let endpoint: Endpoint = "2001:db8::7".parse()?;
/// assert_eq!(endpoint.to_string(), "[2001:db8::7]:1688");
/// assert!("kms.example.lan:http".parse::<Endpoint>().is_err());
/// # Ok::<(), kms_core::endpoint::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Who.
    pub host: Host,
    /// 1 to 65535.
    pub port: u16,
}

/// Who answers at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name that is yet to be resolved: letters, digits, `-`, `_` and `.`.
    Name(String),
}

/// Text that is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No name and no address.
    #[error(
        "write a host name or an address, with :PORT after it if it is not 1688; IPv6 with a port is [2001:db8::7]:1688"
    )]
    Host,
    /// Not a number from 1 to 65535.
    #[error("the port after the colon is a number from 1 to 65535")]
    Port,
    /// An IPv6 address that needs the number of an interface.
    #[error("an address with a zone (%) cannot be used; give the host another one")]
    Zone,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.contains('%') {
            return Err(EndpointError::Zone);
        }
        // Without brackets, more than one colon is an address and no port.
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self {
                host: Host::Address(address.into()),
                port: DEFAULT_PORT,
            });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(EndpointError::Host)?;
            let address: Ipv6Addr = address.parse().map_err(|_| EndpointError::Host)?;
            return Ok(Self {
                host: Host::Address(address.into()),
                port: match port.strip_prefix(':') {
                    Some(port) => self::port(port)?,
                    None if port.is_empty() => DEFAULT_PORT,
                    None => return Err(EndpointError::Port),
                },
            });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, self::port(port)?),
            None => (text, DEFAULT_PORT),
        };
        let host = match host.parse::<IpAddr>() {
            Ok(address) => Host::Address(address),
            Err(_) if is_name(host) => Host::Name(host.to_owned()),
            Err(_) => return Err(EndpointError::Host),
        };
        Ok(Self { host, port })
    }
}

fn port(text: &str) -> Result<u16, EndpointError> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or(EndpointError::Port)
}

/// Whether the text could be a name in DNS.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= LONGEST_NAME
        && text.split('.').all(label)
        // 1.2.3 is an address with a part missing, not a name.
        && !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling() {
        for (text, shown) in [
            ("kms", "kms:1688"),
            ("kms.example.lan.:1700", "kms.example.lan.:1700"),
            ("_vlmcs._tcp.example", "_vlmcs._tcp.example:1688"),
            ("192.0.2.7", "192.0.2.7:1688"),
            ("192.0.2.7:1", "192.0.2.7:1"),
            ("::1", "[::1]:1688"),
            ("[::1]", "[::1]:1688"),
            ("[2001:db8::7]:65535", "[2001:db8::7]:65535"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(shown.parse(), Ok(endpoint));
        }
    }

    #[test]
    fn what_is_no_endpoint_is_told_why() {
        for (text, error) in [
            ("", EndpointError::Host),
            ("http://kms", EndpointError::Port),
            ("kms host", EndpointError::Host),
            ("kms\x1b[31m", EndpointError::Host),
            ("a..b", EndpointError::Host),
            ("192.0.2", EndpointError::Host),
            ("kms:", EndpointError::Port),
            ("kms:0", EndpointError::Port),
            ("kms:65536", EndpointError::Port),
            ("[::1", EndpointError::Host),
            ("[::1]1688", EndpointError::Port),
            ("[192.0.2.7]", EndpointError::Host),
            ("fe80::1%eth0", EndpointError::Zone),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_plain_and_parses_again(text in ".{0,40}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                let shown = endpoint.to_string();
                prop_assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(shown.parse(), Ok(endpoint));
            }
        }
    }
}
