//! Whose request it is, where proxies stand in between.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// The address that an event comes from, in canonical form: the peer's, unless
/// that is a proxy of `trusted`; then what the proxy says, and so on along
/// `X-Forwarded-For` from its right end, where each proxy has added whom it
/// heard. What stands left of the first address that is no proxy was written by
/// the client and is not looked at.
///
/// `forwarded` are the header's values, from first to last.
#[must_use]
pub fn address<'a, I>(peer: IpAddr, forwarded: I, trusted: &[IpNet]) -> IpAddr
where
    I: DoubleEndedIterator<Item = &'a str>,
{
    let mut address = peer.to_canonical();
    for hop in forwarded.rev().flat_map(|value| value.rsplit(',')) {
        if !trusted.iter().any(|network| network.contains(&address)) {
            break;
        }
        // A proxy that writes something else says no more than who it is.
        let Some(named) = hop_address(hop.trim()) else {
            break;
        };
        address = named.to_canonical();
    }
    address
}

/// An address as proxies write it: bare, or with the client's port.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let bare = bare.unwrap_or(text);
    let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip());
    bare.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(peer: &str, forwarded: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/64"].map(|net| net.parse().unwrap());
        address(peer.parse().unwrap(), forwarded.iter().copied(), &trusted).to_string()
    }

    #[test]
    fn a_peer_that_is_no_proxy_is_who_it_is() {
        assert_eq!(of("192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1", &[]), "192.0.2.1");
        assert_eq!(of("2001:db8:0:1::1", &["203.0.113.9"]), "2001:db8:0:1::1");
    }

    #[test]
    fn a_proxy_is_believed_up_to_whom_it_heard() {
        for (forwarded, wanted) in [
            (&["203.0.113.9"] as &[&str], "203.0.113.9"),
            // The left part is the client's own invention.
            (&["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
            (&["127.0.0.1", "203.0.113.9"], "203.0.113.9"),
            (&["203.0.113.9, 10.1.1.1 ,10.2.2.2"], "203.0.113.9"),
            (&["203.0.113.9, 2001:db8::7"], "203.0.113.9"),
            (&["203.0.113.9, 198.51.100.1, 10.1.1.1"], "198.51.100.1"),
            (&["::ffff:203.0.113.9"], "203.0.113.9"),
            (&["203.0.113.9:4711"], "203.0.113.9"),
            (&["[2001:db8:1::1]:4711"], "2001:db8:1::1"),
            (&["[2001:db8:1::1]"], "2001:db8:1::1"),
            // All are proxies: the first of them asked by itself.
            (&["10.3.3.3, 10.1.1.1"], "10.3.3.3"),
            // What is none says nothing.
            (&["203.0.113.9, unknown"], "10.0.0.1"),
            (&["203.0.113.9, unknown, 10.1.1.1"], "10.1.1.1"),
            (&["203.0.113.9,"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(of("10.0.0.1", forwarded), wanted, "{forwarded:?}");
            assert_eq!(of("::ffff:10.0.0.1", forwarded).len(), wanted.len());
        }
    }

    proptest! {
        #[test]
        fn what_a_client_writes_first_does_not_matter(theirs in "[ -~]{0,60}") {
            let seen = format!("{theirs},203.0.113.9");
            prop_assert_eq!(of("10.0.0.1", &[&seen]), "203.0.113.9");
            prop_assert_eq!(of("192.0.2.1", &[&theirs]), "192.0.2.1");
        }
    }
}
