//! From what became of each address to one verdict.

use std::fmt;
use std::net::SocketAddr;

use crate::client::ClientError;

use super::Banner;

/// What became of one address. In order of how far it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// No route to it from here: nothing is known about the host.
    NoRoute,
    /// The network says that it cannot be reached, or the system refuses to try.
    Unreachable(String),
    /// Nothing came back to the attempt to connect.
    Filtered,
    /// The port is closed.
    Refused,
    /// Connected, and then silence.
    Silent,
    /// Connected, and closed without a word.
    Closed,
    /// Something else answers.
    NotRpc(Banner),
    /// RPC that makes no sense.
    Nonsense(ClientError),
    /// RPC that refuses to bind.
    BindRefused(ClientError),
    /// RPC without the KMS interface.
    NotKms(ClientError),
    /// A KMS host.
    Kms {
        /// NDR32 is spoken.
        ndr32: bool,
        /// NDR64 is spoken.
        ndr64: bool,
        /// The bind time features in force, where they were negotiated.
        features: Option<u16>,
    },
}

/// What it comes to. [`Verdict::code`] is for scripts and probes, `Display` says
/// it with what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every address answers as a KMS host does.
    Healthy,
    /// Only the addresses of one family do.
    OneFamily {
        /// Whether it is IPv6 that works.
        ipv6: bool,
    },
    /// Only some addresses do.
    Partial {
        /// So many.
        working: usize,
        /// Of so many.
        of: usize,
    },
    /// A name could not be resolved.
    NoName(String),
    /// The domain has no service record.
    NoRecord(String),
    /// The name server does not say anything about a name.
    NameServer(String),
    /// No address works; the one that came furthest.
    Broken(SocketAddr, Finding),
}

impl Finding {
    fn is_kms(&self) -> bool {
        matches!(self, Self::Kms { .. })
    }

    /// Higher is further.
    fn distance(&self) -> u8 {
        match self {
            Self::NoRoute => 0,
            Self::Unreachable(_) => 1,
            Self::Filtered => 2,
            Self::Refused => 3,
            Self::Silent => 4,
            Self::Closed => 5,
            Self::NotRpc(_) => 6,
            Self::Nonsense(_) => 7,
            Self::BindRefused(_) => 8,
            Self::NotKms(_) => 9,
            Self::Kms { .. } => 10,
        }
    }
}

/// The verdict on these addresses, of which there is at least one. Those without
/// a route from here count only if there is no other.
#[must_use]
pub fn judge(findings: &[(SocketAddr, Finding)], any: bool) -> Verdict {
    let reachable = || {
        let known = |(_, finding): &&(SocketAddr, Finding)| *finding != Finding::NoRoute;
        findings.iter().filter(known)
    };
    let working = reachable().filter(|(_, finding)| finding.is_kms()).count();
    let of = reachable().count();
    if working == 0 {
        // Of equals the first, which is the last of the reverse.
        let furthest = findings
            .iter()
            .rev()
            .max_by_key(|(_, finding)| finding.distance());
        return match furthest {
            Some((address, finding)) => Verdict::Broken(*address, finding.clone()),
            None => Verdict::NoName(String::new()),
        };
    }
    if working == of || any {
        return Verdict::Healthy;
    }
    let all = |ipv6: bool, kms: bool| {
        let mut family = reachable().filter(|(address, _)| address.is_ipv6() == ipv6);
        family.all(|(_, finding)| finding.is_kms() == kms)
    };
    for ipv6 in [false, true] {
        if all(ipv6, true) && all(!ipv6, false) {
            return Verdict::OneFamily { ipv6 };
        }
    }
    Verdict::Partial { working, of }
}

impl Verdict {
    /// Every exit code with the word for it, in the order of docs/doctor.md. 1 and
    /// 2 are taken: the doctor itself failed, and wrong usage.
    pub const CODES: [(u8, &'static str); 16] = [
        (0, "healthy"),
        (3, "degraded"),
        (4, "no_name"),
        (5, "no_record"),
        (6, "name_server"),
        (7, "no_route"),
        (8, "unreachable"),
        (9, "filtered"),
        (10, "refused"),
        (11, "silent"),
        (12, "closed"),
        (13, "website"),
        (14, "not_rpc"),
        (15, "nonsense"),
        (16, "bind_refused"),
        (17, "not_kms"),
    ];

    /// What a process ends with.
    #[must_use]
    pub fn code(&self) -> u8 {
        let row = Self::CODES.iter().find(|(_, label)| *label == self.label());
        // Every label has a row; the test goes through them.
        row.map_or(1, |(code, _)| *code)
    }

    /// One word.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::OneFamily { .. } | Self::Partial { .. } => "degraded",
            Self::NoName(_) => "no_name",
            Self::NoRecord(_) => "no_record",
            Self::NameServer(_) => "name_server",
            Self::Broken(_, finding) => match finding {
                Finding::NoRoute => "no_route",
                Finding::Unreachable(_) => "unreachable",
                Finding::Filtered => "filtered",
                Finding::Refused => "refused",
                Finding::Silent => "silent",
                Finding::Closed => "closed",
                Finding::NotRpc(Banner::Http(_) | Banner::Tls) => "website",
                Finding::NotRpc(_) => "not_rpc",
                Finding::Nonsense(_) => "nonsense",
                Finding::BindRefused(_) => "bind_refused",
                Finding::NotKms(_) => "not_kms",
                Finding::Kms { .. } => "healthy",
            },
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("a KMS host answers"),
            Self::OneFamily { ipv6: false } => f.write_str(
                "a KMS host answers over IPv4 and not over IPv6: forward IPv6 to it too, or take \
                 its AAAA record away, since clients that prefer IPv6 wait for a time-out first",
            ),
            Self::OneFamily { ipv6: true } => f.write_str(
                "a KMS host answers over IPv6 and not over IPv4: forward IPv4 to it too, or take \
                 its A record away",
            ),
            Self::Partial { working, of } => write!(
                f,
                "a KMS host answers at {working} of {of} addresses: repair the others, or take \
                 them out of DNS"
            ),
            Self::NoName(name) => write!(
                f,
                "{name} does not resolve: check the spelling, the name server, and that the \
                 record exists"
            ),
            Self::NoRecord(domain) => write!(
                f,
                "{domain} has no _vlmcs._tcp record: clients that look for a host by DNS find \
                 none; add an SRV record, or configure clients with the host's name"
            ),
            Self::NameServer(name) => write!(
                f,
                "the name server says nothing about {name}: look at it first, or name another \
                 with --nameserver"
            ),
            Self::Broken(address, finding) => broken(*address, finding, f),
        }
    }
}

fn broken(address: SocketAddr, finding: &Finding, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match finding {
        Finding::NoRoute => write!(
            f,
            "there is no route to {address} from here: look from a machine that has one"
        ),
        Finding::Unreachable(why) => write!(
            f,
            "{address} cannot be reached ({why}): check routes and that the host is up"
        ),
        Finding::Filtered => write!(
            f,
            "nothing comes back from {address}: a firewall drops the connection, or nobody has \
             the address; open TCP port {}",
            address.port()
        ),
        Finding::Refused => write!(
            f,
            "nothing listens at {address}: start the KMS server, or correct the port"
        ),
        Finding::Silent => write!(
            f,
            "{address} accepts connections and says nothing: the server hangs, expects a PROXY \
             header, or a proxy in front of it has no server behind"
        ),
        Finding::Closed => write!(
            f,
            "{address} accepts connections and closes them: it refuses this source, expects a \
             PROXY header, or a proxy in front of it has no server behind"
        ),
        Finding::NotRpc(banner @ (Banner::Http(_) | Banner::Tls)) => write!(
            f,
            "a website answers at {address} ({banner}): the name or the port leads to a web \
             server or an HTTP proxy; forward TCP to the KMS server as it is"
        ),
        Finding::NotRpc(banner) => write!(
            f,
            "another service answers at {address} ({banner}): correct the name or the port"
        ),
        Finding::Nonsense(error) => write!(
            f,
            "{address} speaks RPC and answers with nonsense ({error}): the server is broken, or \
             something changes its bytes"
        ),
        Finding::BindRefused(error) => write!(
            f,
            "{address} speaks RPC and refuses ({error}): look at the server's log"
        ),
        Finding::NotKms(error) => write!(
            f,
            "{address} speaks RPC and is no KMS host ({error}): correct the port, or start the \
             KMS service there"
        ),
        // Nobody calls a working address broken.
        Finding::Kms { .. } => write!(f, "a KMS host answers at {address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KMS: Finding = Finding::Kms {
        ndr32: true,
        ndr64: true,
        features: None,
    };

    fn on(address: &str, finding: Finding) -> (SocketAddr, Finding) {
        (address.parse().unwrap(), finding)
    }

    #[test]
    fn verdicts_by_what_became_of_the_addresses() {
        let (v4, other, v6) = ("192.0.2.7:1688", "192.0.2.8:1688", "[2001:db8::7]:1688");
        let broken = |address: &str, finding| Verdict::Broken(address.parse().unwrap(), finding);
        for (findings, verdict) in [
            (vec![on(v4, KMS), on(v6, KMS)], Verdict::Healthy),
            (
                vec![on(v4, KMS), on(v6, Finding::Filtered)],
                Verdict::OneFamily { ipv6: false },
            ),
            (
                vec![on(v4, Finding::Refused), on(v6, KMS)],
                Verdict::OneFamily { ipv6: true },
            ),
            // This machine has no IPv6; others may.
            (
                vec![on(v4, KMS), on(v6, Finding::NoRoute)],
                Verdict::Healthy,
            ),
            (
                vec![on(v4, KMS), on(other, Finding::Refused), on(v6, KMS)],
                Verdict::Partial { working: 2, of: 3 },
            ),
            (
                vec![on(v4, Finding::Refused), on(v6, Finding::Filtered)],
                broken(v4, Finding::Refused),
            ),
            (vec![on(v4, Finding::NoRoute)], broken(v4, Finding::NoRoute)),
        ] {
            assert_eq!(judge(&findings, false), verdict, "{findings:?}");
        }
        let one = [on(v4, KMS), on(v6, Finding::Filtered)];
        assert_eq!(judge(&one, true), Verdict::Healthy);
    }

    #[test]
    fn every_verdict_has_a_code_of_its_own() {
        let error = ClientError::Fragments;
        let findings = [
            Finding::NoRoute,
            Finding::Unreachable(String::new()),
            Finding::Filtered,
            Finding::Refused,
            Finding::Silent,
            Finding::Closed,
            Finding::NotRpc(Banner::Tls),
            Finding::NotRpc(Banner::Text(String::new())),
            Finding::Nonsense(error),
            Finding::BindRefused(error),
            Finding::NotKms(error),
        ];
        let address = SocketAddr::from(([192, 0, 2, 7], 1688));
        let broken = findings.map(|finding| Verdict::Broken(address, finding));
        let verdicts = [
            Verdict::Healthy,
            Verdict::Partial { working: 1, of: 2 },
            Verdict::NoName(String::new()),
            Verdict::NoRecord(String::new()),
            Verdict::NameServer(String::new()),
        ]
        .into_iter()
        .chain(broken);
        let codes: Vec<u8> = verdicts.map(|verdict| verdict.code()).collect();
        assert_eq!(codes, Verdict::CODES.map(|(code, _)| code));
    }
}
