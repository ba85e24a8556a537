//! `kms-core doctor`: what is wrong with an endpoint.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use kms_core::doctor::{Finding, Report, Settings, Target, examine};
use kms_core::endpoint::{Endpoint, is_name};
use serde_json::{Value, json};

use crate::output::{millis, print, print_json};
use crate::{Failure, value};

/// The port of DNS.
const DNS: u16 = 53;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 healthy, 2 wrong usage, 3 degraded, 4 no name, 5 no record, \
    6 name server, 7 no route, 8 unreachable, 9 filtered, 10 refused, 11 silent, 12 closed, \
    13 website, 14 not RPC, 15 nonsense, 16 bind refused, 17 not KMS; 1 anything else."
)]
pub(crate) struct Args {
    /// The host, as HOST, HOST:PORT or [IPv6]:PORT
    #[arg(required_unless_present = "domain", conflicts_with = "domain")]
    host: Option<Endpoint>,

    /// Examine the hosts that this domain names in _vlmcs._tcp
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    domain: Option<String>,

    /// For everything; a quarter each for names, connecting, RPC, and a second look
    #[arg(long, value_name = "DURATION", default_value = "12s", value_parser = value::duration)]
    timeout: Duration,

    /// Ask this name server, as IP or IP:PORT, not the system's
    #[arg(long, value_name = "IP[:PORT]", value_parser = nameserver)]
    nameserver: Option<SocketAddr>,

    /// One address that works is enough
    #[arg(long)]
    any: bool,

    /// Say nothing if all is well, else only the verdict
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn domain(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.trim_end_matches('.').to_owned())
    } else {
        Err("not a domain name, like example.lan".to_owned())
    }
}

fn nameserver(text: &str) -> Result<SocketAddr, String> {
    let address = || Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, DNS));
    text.parse()
        .ok()
        .or_else(address)
        .ok_or_else(|| "use an address, like 192.0.2.53 or [2001:db8::53]:5353".to_owned())
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let target = match (args.host, args.domain) {
        (Some(host), _) => Target::Host(host),
        (None, Some(domain)) => Target::Domain(domain),
        (None, None) => return Err(Failure::usage("give a HOST, or --domain")),
    };
    let settings = Settings {
        within: args.timeout,
        nameserver: args.nameserver,
        any: args.any,
    };
    let report = examine(&target, settings).await.map_err(Failure::other)?;
    let code = report.verdict.code();
    if args.json {
        print_json(&as_json(&target, &report))?;
    } else if !args.quiet {
        print(&as_text(&report))?;
    } else if code != 0 {
        print(&format!("{}\n", report.verdict))?;
    }
    Ok(ExitCode::from(code))
}

fn as_text(report: &Report) -> String {
    let width = report.steps.iter().map(|step| step.subject.chars().count());
    let width = width.max().unwrap_or(0);
    let mut text = String::new();
    for step in &report.steps {
        let (mark, stage) = (step.mark.label(), step.stage.label());
        let (subject, detail) = (&step.subject, &step.detail);
        let took = millis(step.took);
        writeln!(
            text,
            "{mark:<4} {stage:<4} {subject:<width$}  {detail} ({took})"
        )
        .expect("memory takes what is written to it");
    }
    let verdict = &report.verdict;
    writeln!(text, "{}: {verdict}", verdict.label()).expect("memory takes what is written to it");
    text
}

fn as_json(target: &Target, report: &Report) -> Value {
    let steps = report.steps.iter().map(|step| {
        json!({
            "stage": step.stage.label(),
            "subject": step.subject,
            "result": step.mark.label(),
            "detail": step.detail,
            "milliseconds": step.took.as_secs_f64() * 1e3,
        })
    });
    let addresses = report.findings.iter().map(|(address, finding)| {
        let (kms, ndr32, ndr64) = match finding {
            Finding::Kms { ndr32, ndr64, .. } => (true, *ndr32, *ndr64),
            _ => (false, false, false),
        };
        json!({
            "address": address.to_string(),
            "kms": kms,
            "ndr32": ndr32,
            "ndr64": ndr64,
        })
    });
    json!({
        "v": 1,
        "target": match target {
            Target::Host(endpoint) => endpoint.to_string(),
            Target::Domain(domain) => domain.clone(),
        },
        "verdict": report.verdict.label(),
        "code": report.verdict.code(),
        "advice": report.verdict.to_string(),
        "addresses": addresses.collect::<Vec<_>>(),
        "steps": steps.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn name_servers_have_a_port_or_the_usual_one() {
        let address = |port| SocketAddr::from((Ipv4Addr::new(192, 0, 2, 53), port));
        assert_eq!(nameserver("192.0.2.53"), Ok(address(53)));
        assert_eq!(nameserver("192.0.2.53:5353"), Ok(address(5353)));
        assert!(nameserver("dns.example").is_err());
    }

    #[test]
    fn domains_are_names() {
        assert_eq!(domain("example.lan."), Ok("example.lan".to_owned()));
        assert!(domain("192.0.2.7").is_err());
        assert!(domain("example lan").is_err());
    }
}
