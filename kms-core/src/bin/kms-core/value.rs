//! Values of options, from how they are typed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::SignedDuration;
use kms_core::limits::{MAX_RATE, MAX_SPAN, Rate};

/// `30s`, `2m`, `1h30m`; a bare number is seconds. Up to [`MAX_SPAN`]: limits
/// remember no longer, and no moment that is so far away overflows a clock.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds
        .or_else(|| Duration::try_from(text.parse::<SignedDuration>().ok()?).ok())
        .filter(|duration| !duration.is_zero() && *duration <= MAX_SPAN)
        .ok_or_else(|| "use a time above 0 and up to 30 days, like 30s, 5m or 1h".to_owned())
}

/// `127.0.0.1:1688`, `[::]:1688`.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write ADDRESS:PORT, like [::]:1688 or 127.0.0.1:9103".to_owned())
}

/// `10.0.0.0/8`; an address is a network of one. Addresses are looked up in their
/// canonical form, so an IPv4-mapped network becomes the one it stands for.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let network = text.parse::<IpNet>().ok().or_else(address);
    network
        .map(|network| canonical(network.trunc()))
        .ok_or_else(|| "use a network like 10.0.0.0/8 or 2001:db8::/32, or an address".to_owned())
}

fn canonical(network: IpNet) -> IpNet {
    let mapped = |network: Ipv6Net| {
        let prefix = network.prefix_len().checked_sub(96)?;
        let address = network.addr().to_ipv4_mapped()?;
        Ipv4Net::new(address, prefix).ok().map(IpNet::V4)
    };
    match network {
        IpNet::V4(_) => network,
        IpNet::V6(v6) => mapped(v6).unwrap_or(network),
    }
}

/// `10/60s`: so many in so long.
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    let parsed = || {
        let (connections, window) = text.split_once('/')?;
        Some(Rate {
            connections: connections.trim().parse().ok()?,
            window: duration(window.trim()).ok()?,
        })
    };
    parsed()
        .filter(|rate| (1..=MAX_RATE).contains(&rate.connections))
        .ok_or_else(|| format!("use 1 to {MAX_RATE} connections per time, like 10/60s"))
}

/// 16 hex digits.
pub(crate) fn hardware_id(text: &str) -> Result<[u8; 8], String> {
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16)
        .ok()
        .filter(|_| digits)
        .map(u64::to_be_bytes)
        .ok_or_else(|| "use 16 hex digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_or_are_seconds() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("720h"), Ok(MAX_SPAN));
        let endless = u64::MAX.to_string();
        for wrong in [
            "", "0", "0s", "-5s", "soon", "5 apples", "721h", "2592001", &endless,
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_are_cut_to_their_prefix() {
        assert_eq!(network("10.1.2.3/8"), Ok("10.0.0.0/8".parse().unwrap()));
        assert_eq!(network("192.0.2.1"), Ok("192.0.2.1/32".parse().unwrap()));
        assert_eq!(network("::1"), Ok("::1/128".parse().unwrap()));
        // What is asked about is an IPv4 address, also where it came as a mapped one.
        for (mapped, plain) in [
            ("::ffff:127.0.0.1", "127.0.0.1/32"),
            ("::ffff:127.0.0.1/128", "127.0.0.1/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("::ffff:0.0.0.0/95", "::fffe:0:0/95"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(mapped), Ok(plain.parse().unwrap()), "{mapped}");
        }
        for wrong in ["", "10.0.0.0/33", "example.org", "10.0.0"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_a_number_per_time() {
        let window = Duration::from_secs(60);
        let connections = 10;
        assert_eq!(
            rate("10/60s"),
            Ok(Rate {
                connections,
                window
            })
        );
        assert_eq!(
            rate("10 / 1m"),
            Ok(Rate {
                connections,
                window
            })
        );
        for wrong in [
            "10", "/60s", "10/", "-1/60s", "ten/60s", "0/60s", "1001/60s", "10/721h",
        ] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hardware_id_has_all_its_digits() {
        assert_eq!(
            hardware_id("0123456789abCDEF"),
            Ok([1, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF])
        );
        for wrong in ["", "123", "+123456789abcdef", "0123456789abcdef0"] {
            assert!(hardware_id(wrong).is_err(), "{wrong}");
        }
    }
}
