//! Names to addresses without the C library: a static binary cannot load the
//! modules that `getaddrinfo` may want, and in an empty image there are none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Looks into `/etc/hosts`, then asks the name servers of `/etc/resolv.conf` with
/// its search list. Both are read for every connection, so a changed network
/// needs no restart. Where there is no resolv.conf, this machine's own server is
/// asked, as resolv.conf(5) says, and never a public one.
#[derive(Debug)]
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = resolver()?.lookup_ip(name.as_str()).await?;
            // The port is the URL's.
            let addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn resolver() -> Result<TokioResolver, NetError> {
    let mut builder = match TokioResolver::builder_tokio() {
        Err(NetError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            let here = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let config = ResolverConfig::from_name_servers(vec![here]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        other => other?,
    };
    // Both kinds, so that connecting can fall back from one to the other.
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_has_a_name_and_what_is_no_name_fails() {
        let addresses: Vec<_> = Resolver
            .resolve("localhost".parse().unwrap())
            .await
            .unwrap()
            .collect();
        assert!(!addresses.is_empty());
        for address in addresses {
            assert!(address.ip().is_loopback(), "{address}");
            assert_eq!(address.port(), 0);
        }
        let label = "a".repeat(64);
        let no_name = Resolver.resolve(label.parse().unwrap()).await;
        assert!(no_name.is_err());
    }
}
