//! Which part of the network an address belongs to: classes by prefix.
//!
//! A handful of prefixes are kept longest first in two short lists, one per
//! family, so a look-up is a scan that ends at the first match. An IPv4-mapped
//! IPv6 address or prefix is made IPv4 before anything else: how a socket was
//! opened does not change who is at its other end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The class of every address that no prefix holds.
pub const EXTERNAL: &str = "external";

/// How many classes there may be, `external` included: each becomes a label
/// value of every per-source metric.
pub const MAX_CLASSES: usize = 64;

/// How many prefixes all classes may have together. Look-ups are linear; this
/// keeps the worst one in the order of a microsecond.
pub const MAX_PREFIXES: usize = 1024;

/// Longest class name in characters.
const MAX_NAME: usize = 32;

/// Classes that exist unless the configuration gives them other prefixes.
const DEFAULTS: [(&str, &str); 2] = [
    ("internal_pod", "10.10.0.0/16"),
    ("cluster_node", "10.0.20.0/24"),
];

/// Why a set of classes cannot be used. The text names the class and the fix;
/// the caller puts the configuration key before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// The name cannot be a metric's label value.
    #[error(
        "class name {0:?}: use a lower-case letter, then up to 31 of a-z, 0-9 and _ (internal_pod)"
    )]
    Name(String),
    /// The address part has bits that the prefix length cuts off.
    #[error("class {class}: {given} has bits beyond its prefix length; write {fixed}")]
    HostBits {
        /// The class.
        class: Arc<str>,
        /// The prefix as given.
        given: IpNet,
        /// What was most likely meant.
        fixed: IpNet,
    },
    /// Two classes claim one prefix.
    #[error("prefix {prefix} is in class {first} and in class {second}; leave it in one of them")]
    Twice {
        /// The prefix.
        prefix: IpNet,
        /// One class.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// Too many classes or prefixes.
    #[error(
        "{classes} classes with {prefixes} prefixes are too many; use at most {MAX_CLASSES} and {MAX_PREFIXES}"
    )]
    TooMany {
        /// How many classes there would be.
        classes: usize,
        /// How many prefixes.
        prefixes: usize,
    },
}

/// Classes by prefix; the longest prefix that holds an address names it.
#[derive(Clone, Debug)]
pub struct Classes {
    v4: Vec<(Ipv4Net, Arc<str>)>,
    v6: Vec<(Ipv6Net, Arc<str>)>,
    external: Arc<str>,
    names: Vec<Arc<str>>,
}

impl Classes {
    /// The default classes, with `configured` added: a name that is already a
    /// default takes over that class's prefixes (an empty list removes it).
    ///
    /// # Errors
    ///
    /// When a name or prefix cannot be used, or there are too many.
    pub fn new(configured: &BTreeMap<String, Vec<IpNet>>) -> Result<Self, ClassError> {
        let mut classes: BTreeMap<&str, Vec<IpNet>> = DEFAULTS
            .iter()
            .map(|&(name, prefix)| {
                (
                    name,
                    vec![prefix.parse().expect("a prefix that was tested")],
                )
            })
            .collect();
        for (name, prefixes) in configured {
            if !is_name(name) {
                return Err(ClassError::Name(name.clone()));
            }
            classes.insert(name, prefixes.clone());
        }
        classes.retain(|_, prefixes| !prefixes.is_empty());

        let (count, prefixes) = (classes.len() + 1, classes.values().map(Vec::len).sum());
        if count > MAX_CLASSES || prefixes > MAX_PREFIXES {
            return Err(ClassError::TooMany {
                classes: count,
                prefixes,
            });
        }
        Self::build(classes)
    }

    fn build(classes: BTreeMap<&str, Vec<IpNet>>) -> Result<Self, ClassError> {
        let external: Arc<str> = EXTERNAL.into();
        let mut this = Self {
            v4: Vec::new(),
            v6: Vec::new(),
            names: vec![external.clone()],
            external,
        };
        // Keyed by prefix: finds a prefix that two classes claim.
        let mut owners: BTreeMap<IpNet, Arc<str>> = BTreeMap::new();
        for (name, prefixes) in classes {
            let class: Arc<str> = if name == EXTERNAL {
                this.external.clone()
            } else {
                name.into()
            };
            for given in prefixes {
                let prefix = canonical(given);
                if prefix != prefix.trunc() {
                    return Err(ClassError::HostBits {
                        class,
                        given,
                        fixed: prefix.trunc(),
                    });
                }
                match owners.insert(prefix, class.clone()) {
                    Some(first) if first != class => {
                        return Err(ClassError::Twice {
                            prefix,
                            first,
                            second: class,
                        });
                    }
                    Some(_) => continue,
                    None => {}
                }
                match prefix {
                    IpNet::V4(prefix) => this.v4.push((prefix, class.clone())),
                    IpNet::V6(prefix) => this.v6.push((prefix, class.clone())),
                }
            }
            if name != EXTERNAL {
                this.names.push(class);
            }
        }
        this.v4
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        this.v6
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        Ok(this)
    }

    /// The class of an address.
    #[must_use]
    pub fn classify(&self, ip: IpAddr) -> &Arc<str> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self
                .v4
                .iter()
                .find(|(p, _)| p.contains(&ip))
                .map(|(_, class)| class),
            IpAddr::V6(ip) => self
                .v6
                .iter()
                .find(|(p, _)| p.contains(&ip))
                .map(|(_, class)| class),
        }
        .unwrap_or(&self.external)
    }

    /// Every class there is, `external` first, for metrics that are present
    /// from the start.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }
}

impl Default for Classes {
    fn default() -> Self {
        Self::new(&BTreeMap::new()).expect("the defaults are valid")
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// `::ffff:a.b.c.d/96+n` is the IPv4 prefix `a.b.c.d/n`; others stay.
fn canonical(prefix: IpNet) -> IpNet {
    let IpNet::V6(v6) = prefix else { return prefix };
    v6.addr()
        .to_ipv4_mapped()
        .zip(v6.prefix_len().checked_sub(96))
        .and_then(|(addr, len)| Ipv4Net::new(addr, len).ok())
        .map_or(prefix, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn classes(configured: &[(&str, &[&str])]) -> Result<Classes, ClassError> {
        Classes::new(
            &configured
                .iter()
                .map(|(name, prefixes)| {
                    (
                        name.to_string(),
                        prefixes.iter().map(|p| p.parse().unwrap()).collect(),
                    )
                })
                .collect(),
        )
    }

    fn class<'a>(classes: &'a Classes, ip: &str) -> &'a str {
        classes.classify(ip.parse().unwrap())
    }

    #[test]
    fn the_ancestors_addresses_keep_their_classes() {
        let classes = Classes::default();
        assert_eq!(class(&classes, "10.10.107.224"), "internal_pod");
        assert_eq!(class(&classes, "10.0.20.103"), "cluster_node");
        assert_eq!(class(&classes, "203.0.113.42"), "external");
        assert_eq!(class(&classes, "2001:db8::1"), "external");
        assert_eq!(class(&classes, "10.0.21.1"), "external");
    }

    #[test]
    fn mapped_addresses_and_prefixes_are_ipv4() {
        let classes = classes(&[("lan", &["::ffff:192.168.0.0/112"])]).unwrap();
        assert_eq!(class(&classes, "::ffff:10.10.1.1"), "internal_pod");
        assert_eq!(class(&classes, "192.168.7.9"), "lan");
        assert_eq!(class(&classes, "::ffff:192.168.7.9"), "lan");
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        let classes = classes(&[
            ("aaa", &["10.0.0.0/8"]),
            ("external", &["10.10.9.0/24"]),
            ("office", &["2001:db8::/32"]),
            ("zzz", &["10.10.9.128/25", "2001:db8:7::/48"]),
        ])
        .unwrap();
        assert_eq!(class(&classes, "10.99.0.1"), "aaa");
        assert_eq!(class(&classes, "10.10.8.1"), "internal_pod");
        assert_eq!(class(&classes, "10.10.9.1"), "external");
        assert_eq!(class(&classes, "10.10.9.200"), "zzz");
        assert_eq!(class(&classes, "2001:db8:8::1"), "office");
        assert_eq!(class(&classes, "2001:db8:7::1"), "zzz");
        let names: Vec<&str> = classes.names().iter().map(|name| &**name).collect();
        assert_eq!(
            names,
            [
                "external",
                "aaa",
                "cluster_node",
                "internal_pod",
                "office",
                "zzz"
            ]
        );
    }

    #[test]
    fn a_configured_name_replaces_the_default_and_an_empty_list_removes_it() {
        let classes =
            classes(&[("internal_pod", &["172.16.0.0/12"]), ("cluster_node", &[])]).unwrap();
        assert_eq!(class(&classes, "172.20.0.1"), "internal_pod");
        assert_eq!(class(&classes, "10.10.0.1"), "external");
        assert_eq!(class(&classes, "10.0.20.1"), "external");
        assert_eq!(classes.names().len(), 2);
    }

    #[test]
    fn errors_name_the_class_and_the_fix() {
        for name in ["", "Pod", "1st", "a-b", "a b", "é", &"a".repeat(33)] {
            let error = classes(&[(name, &["10.1.0.0/16"])]).unwrap_err();
            assert!(matches!(error, ClassError::Name(_)), "{name}");
        }
        assert_eq!(
            classes(&[("lab", &["10.1.2.3/16"])])
                .unwrap_err()
                .to_string(),
            "class lab: 10.1.2.3/16 has bits beyond its prefix length; write 10.1.0.0/16"
        );
        assert_eq!(
            classes(&[("lab", &["10.10.0.0/16"])])
                .unwrap_err()
                .to_string(),
            "prefix 10.10.0.0/16 is in class internal_pod and in class lab; leave it in one of them"
        );
        assert!(classes(&[("lab", &["10.1.0.0/16", "10.1.0.0/16"])]).is_ok());
    }

    #[test]
    fn classes_and_prefixes_are_bounded() {
        let many: BTreeMap<String, Vec<IpNet>> = (0..62)
            .map(|n| {
                (
                    format!("c{n}"),
                    vec![format!("10.{n}.1.0/24").parse().unwrap()],
                )
            })
            .collect();
        assert!(matches!(
            Classes::new(&many),
            Err(ClassError::TooMany { classes: 65, .. })
        ));
        let mut long: Vec<IpNet> = Vec::new();
        for n in 0..=MAX_PREFIXES {
            long.push(
                format!("172.16.{}.{}/32", n / 256, n % 256)
                    .parse()
                    .unwrap(),
            );
        }
        let long = BTreeMap::from([("lab".to_owned(), long)]);
        assert!(matches!(
            Classes::new(&long),
            Err(ClassError::TooMany { .. })
        ));
    }

    proptest! {
        /// The scan agrees with the definition: of all prefixes that hold the
        /// address, the longest.
        #[test]
        fn classify_is_the_longest_match(
            prefixes in prop::collection::btree_set((any::<u32>(), 0_u8..=32), 0..20),
            ip in any::<u32>(),
        ) {
            let nets: std::collections::BTreeSet<Ipv4Net> = prefixes
                .into_iter()
                .map(|(addr, len)| Ipv4Net::new(addr.into(), len).unwrap().trunc())
                .collect();
            let mut configured: BTreeMap<String, Vec<IpNet>> = nets
                .iter()
                .enumerate()
                .map(|(n, net)| (format!("c{n}"), vec![IpNet::V4(*net)]))
                .collect();
            configured.insert("internal_pod".into(), vec![]);
            configured.insert("cluster_node".into(), vec![]);
            let classes = Classes::new(&configured).unwrap();
            let ip = std::net::Ipv4Addr::from(ip);
            let expected = nets
                .iter()
                .enumerate()
                .filter(|(_, net)| net.contains(&ip))
                .max_by_key(|(_, net)| net.prefix_len())
                .map_or("external".to_owned(), |(n, _)| format!("c{n}"));
            prop_assert_eq!(&**classes.classify(ip.into()), expected);
        }
    }
}
