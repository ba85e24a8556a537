//! The way through the steps.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::endpoint::{Endpoint, Host};

use super::names::Names;
use super::probe::{Probe, probe};
use super::{MAX_ADDRESSES, Mark, Report, Settings, Stage, Step, Target, Verdict, judge};

/// Examines a host or a domain. Its addresses are examined at the same time, and
/// shown in order.
///
/// # Errors
/// The system's configuration of name servers cannot be used, in words.
pub async fn examine(target: &Target, settings: Settings) -> Result<Report, String> {
    // Names, connecting, RPC, and a second look: see `Settings::within`.
    let quarter = settings.within / 4;
    let mut report = Report {
        steps: Vec::new(),
        findings: Vec::new(),
        verdict: Verdict::NoName(String::new()),
    };
    let services = match target {
        Target::Host(Endpoint { host, port }) => vec![(host.clone(), *port)],
        Target::Domain(domain) => {
            let names = Names::new(settings.nameserver, quarter / 2)?;
            let services = names.services(domain).await;
            report.steps.push(services.step);
            if services.found.is_empty() {
                report.verdict = match services.failed {
                    true => Verdict::NameServer(format!("_vlmcs._tcp.{domain}")),
                    false => Verdict::NoRecord(domain.clone()),
                };
                return Ok(report);
            }
            let services = services.found.into_iter();
            services
                .map(|service| (Host::Name(service.host), service.port))
                .collect()
        }
    };
    let half = match target {
        Target::Host(_) => quarter,
        // The records took the other half.
        Target::Domain(_) => quarter / 2,
    };
    let Resolved {
        mut addresses,
        failed,
        without,
    } = resolve(services, settings.nameserver, half, &mut report.steps).await?;
    if addresses.is_empty() {
        let name = match target {
            Target::Host(endpoint) => endpoint.host.to_string(),
            Target::Domain(domain) => format!("no host of {domain}"),
        };
        report.verdict = unresolved(name, failed);
        return Ok(report);
    }
    if let Some(more @ 1..) = addresses.len().checked_sub(MAX_ADDRESSES) {
        addresses.truncate(MAX_ADDRESSES);
        report.steps.push(Step {
            stage: Stage::Tcp,
            subject: format!("{more} more addresses"),
            mark: Mark::Neutral,
            detail: "left out".to_owned(),
            took: Duration::ZERO,
        });
    }
    let probes = addresses
        .into_iter()
        .map(move |address| probe(address, quarter));
    for probe in all(probes).await {
        let Probe {
            address,
            steps,
            finding,
        } = probe;
        report.steps.extend(steps);
        report.findings.push((address, finding));
    }
    report.verdict = match (judge(&report.findings, settings.any), without) {
        (Verdict::Healthy, Some(without)) if !settings.any => without,
        (verdict, _) => verdict,
    };
    Ok(report)
}

/// What names led to.
#[derive(Default)]
struct Resolved {
    /// Each once, in order.
    addresses: Vec<SocketAddr>,
    /// A question was left unanswered.
    failed: bool,
    /// What to say of the first name without an address.
    without: Option<Verdict>,
}

/// The addresses of all these. Names are asked for at the same time.
async fn resolve(
    hosts: Vec<(Host, u16)>,
    nameserver: Option<SocketAddr>,
    within: Duration,
    steps: &mut Vec<Step>,
) -> Result<Resolved, String> {
    let mut named = Vec::new();
    let mut resolved = Resolved::default();
    let addresses = &mut resolved.addresses;
    for (host, port) in hosts {
        match host {
            Host::Address(address) => addresses.push(SocketAddr::new(address, port)),
            Host::Name(name) => named.push((name, port)),
        }
    }
    if named.is_empty() {
        return Ok(resolved);
    }
    let names = Names::new(nameserver, within)?;
    let asking = named.into_iter().map(|(name, port)| {
        let names = names.clone();
        async move {
            let (v4, v6) =
                tokio::join!(names.addresses(&name, false), names.addresses(&name, true));
            (v4, v6, port)
        }
    });
    for (v4, v6, port) in all(asking).await {
        let failed = v4.failed || v6.failed;
        resolved.failed |= failed;
        let none = v4.found.is_empty() && v6.found.is_empty();
        if none && resolved.without.is_none() {
            let name = v4.step.subject.clone();
            resolved.without = Some(unresolved(name, failed));
        }
        for mut step in [v4.step, v6.step] {
            if none {
                step.mark = Mark::Bad;
            }
            steps.push(step);
        }
        for address in v4.found.into_iter().chain(v6.found) {
            let address = SocketAddr::new(address, port);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Ok(resolved)
}

/// What to say of a name without an address: whether the name server says that it
/// has none, or says nothing.
fn unresolved(name: String, failed: bool) -> Verdict {
    match failed {
        true => Verdict::NameServer(name),
        false => Verdict::NoName(name),
    }
}

/// Does all of them at the same time; the results are in order.
async fn all<F>(tasks: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let mut running = JoinSet::new();
    for (index, task) in tasks.enumerate() {
        running.spawn(async move { (index, task.await) });
    }
    let mut done = running.join_all().await;
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, output)| output).collect()
}

#[cfg(test)]
mod tests;
