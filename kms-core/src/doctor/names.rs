//! Names: service records and addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::{Instant, timeout};

use crate::text;

use super::{MAX_ADDRESSES, MAX_HOSTS, Mark, Stage, Step};

/// Longest text of the resolver, or name of a stranger, that is shown, in
/// characters.
const SHOWN: usize = 100;

/// One host of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    /// With its final dot.
    pub(super) host: String,
}

/// Asks for names, each question within a time.
#[derive(Clone)]
pub(super) struct Names {
    resolver: TokioResolver,
    within: Duration,
}

/// What a question came to: the step, and the answers.
pub(super) struct Asked<T> {
    pub(super) step: Step,
    pub(super) found: Vec<T>,
    /// The name server did not answer, or not with an answer: nothing is known
    /// about the name.
    pub(super) failed: bool,
}

/// Why there are no answers.
enum Problem {
    /// The name server says that there is no such thing.
    None(&'static str),
    /// It did not say.
    Failed(String),
}

impl Names {
    /// By this name server, or by the system's configuration.
    ///
    /// # Errors
    /// What is wrong with the system's configuration, in words.
    pub(super) fn new(nameserver: Option<SocketAddr>, within: Duration) -> Result<Self, String> {
        let builder = match nameserver {
            None => TokioResolver::builder_tokio(),
            Some(server) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                let server = NameServerConfig::new(server.ip(), true, connections.into());
                let config = ResolverConfig::from_name_servers(vec![server]);
                Ok(TokioResolver::builder_with_config(
                    config,
                    TokioRuntimeProvider::default(),
                ))
            }
        };
        let resolver = builder.and_then(|mut builder| {
            // Two attempts fit into what a question may take.
            let options = builder.options_mut();
            options.timeout = options.timeout.min(within / 2);
            builder.build()
        });
        match resolver {
            Ok(resolver) => Ok(Self { resolver, within }),
            Err(error) => Err(format!(
                "no name server is configured here ({}); give one with --nameserver",
                shown(&error.to_string())
            )),
        }
    }

    /// The hosts that `_vlmcs._tcp` of this domain names, in the order clients try
    /// them.
    pub(super) async fn services(&self, domain: &str) -> Asked<Service> {
        let name = format!("_vlmcs._tcp.{}.", domain.trim_end_matches('.'));
        let began = Instant::now();
        let (found, problem) = self.ask(&name, RecordType::SRV).await;
        let services = found.into_iter().filter_map(|data| match data {
            RData::SRV(srv) => Some(Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                host: srv.target.to_ascii(),
            }),
            _ => None,
        });
        let mut found: Vec<Service> = services.collect();
        // Among equals clients draw lots by weight; the likely ones come first.
        found.sort_by_key(|service| (service.priority, u16::MAX - service.weight));
        let all = found.len();
        // "." says that there is no such service.
        found.retain(|service| service.host != "." && service.port != 0);
        found.truncate(MAX_HOSTS);
        let failed = matches!(problem, Some(Problem::Failed(_)));
        let (mark, detail) = if found.is_empty() {
            (Mark::Bad, Problem::words(problem, "no host"))
        } else {
            let hosts: Vec<String> = found.iter().map(service_text).collect();
            (Mark::Good, of_all(&hosts, all))
        };
        let step = Step {
            stage: Stage::Srv,
            subject: name,
            mark,
            detail,
            took: began.elapsed(),
        };
        Asked {
            step,
            found,
            failed,
        }
    }

    /// The addresses of a name in one family.
    pub(super) async fn addresses(&self, name: &str, ipv6: bool) -> Asked<IpAddr> {
        let began = Instant::now();
        let (stage, record) = if ipv6 {
            (Stage::Aaaa, RecordType::AAAA)
        } else {
            (Stage::A, RecordType::A)
        };
        let (data, problem) = self.ask(name, record).await;
        let mut found: Vec<IpAddr> = data.iter().filter_map(RData::ip_addr).collect();
        let all = found.len();
        found.truncate(MAX_ADDRESSES);
        let failed = matches!(problem, Some(Problem::Failed(_)));
        let (mark, detail) = if found.is_empty() {
            // One family is enough; whether one has any is another question.
            (Mark::Neutral, Problem::words(problem, "none"))
        } else {
            let addresses: Vec<String> = found.iter().map(IpAddr::to_string).collect();
            (Mark::Good, of_all(&addresses, all))
        };
        let step = Step {
            stage,
            subject: shown(name),
            mark,
            detail,
            took: began.elapsed(),
        };
        Asked {
            step,
            found,
            failed,
        }
    }

    /// The answers, or why there are none.
    async fn ask(&self, name: &str, record: RecordType) -> (Vec<RData>, Option<Problem>) {
        match timeout(self.within, self.resolver.lookup(name, record)).await {
            Err(_) => (Vec::new(), Some(Problem::unanswered())),
            Ok(Ok(lookup)) => {
                let answers = lookup.answers().iter();
                (answers.map(|record| record.data.clone()).collect(), None)
            }
            Ok(Err(error)) => (Vec::new(), Some(Problem::of(&error))),
        }
    }
}

impl Problem {
    fn of(error: &NetError) -> Self {
        match error {
            error if error.is_nx_domain() => Self::None("no such name"),
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NoError => Self::None("none"),
                code => Self::Failed(format!("the name server says {code}")),
            },
            NetError::Timeout => Self::unanswered(),
            error => Self::Failed(shown(&error.to_string())),
        }
    }

    fn unanswered() -> Self {
        Self::Failed("the name server does not answer".to_owned())
    }

    fn words(problem: Option<Self>, without: &str) -> String {
        match problem {
            None => without.to_owned(),
            Some(Self::None(words)) => words.to_owned(),
            Some(Self::Failed(words)) => words,
        }
    }
}

fn service_text(service: &Service) -> String {
    format!(
        "{}:{} (priority {}, weight {})",
        shown(&service.host),
        service.port,
        service.priority,
        service.weight
    )
}

/// The list, and how many more there were.
fn of_all(shown: &[String], all: usize) -> String {
    let list = shown.join(", ");
    match all.saturating_sub(shown.len()) {
        0 => list,
        more => format!("{list}, and {more} more that are left out"),
    }
}

fn shown(text: &str) -> String {
    text::clean(text.as_bytes(), SHOWN).into_owned()
}
