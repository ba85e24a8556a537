//! How well the events read from a recording tell what its clients did.
//!
//! A recording comes with its truth (`fixtures/README.md`). [`Figures::of`] puts
//! each event to the client it tells of, by client machine id, else by name, and
//! counts what was found, missed, and wrong.

use std::collections::HashMap;
use std::fmt;
use std::ops::AddAssign;

use serde::Deserialize;

/// One action of a client, as the recording's truth has it.
#[derive(Clone, Debug, Deserialize)]
pub struct Action {
    /// What the client did and the server made of it.
    pub kind: Kind,
    /// The client's address.
    pub ip: String,
    /// The name the client gave itself; absent for probes, as are the next two.
    pub workstation: Option<String>,
    /// Client machine id.
    pub cmid: Option<String>,
    /// The product's name in the server's words.
    pub product: Option<String>,
    /// KMS requests on the connection.
    pub requests: Option<u64>,
}

/// What of an event is scored.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// The client's address.
    pub ip: Option<String>,
    /// The client's name.
    pub workstation: Option<String>,
    /// Client machine id; absent in quiet logs.
    pub client_machine_id: Option<String>,
    /// The product's name.
    pub product: Option<String>,
    /// How sure `ip` is.
    pub attribution: Option<Attribution>,
    /// Where ambiguous: the addresses it may have been.
    #[serde(default)]
    pub candidates: Vec<String>,
    /// Whether lines that a client may have forged are behind it.
    #[serde(default)]
    pub suspect: bool,
}

/// Kinds of actions and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "docs/events.md has them")]
pub enum Kind {
    Activation,
    Refused,
    Dropped,
    Probe,
    Aborted,
    ServerStarted,
    ServerStopped,
}

/// How sure an event's address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "docs/events.md has them")]
pub enum Attribution {
    Exact,
    Inferred,
    Ambiguous,
    Unknown,
}

/// The figures of one recording, or of several added up. A client is one
/// (machine, product, outcome, address), however often it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Clients that asked for something.
    pub clients: u64,
    /// Of those, with at least one event.
    pub found: u64,
    /// Requests sent.
    pub requests: u64,
    /// Of those, with an event.
    pub requests_found: u64,
    /// Events of clients beyond the requests they sent.
    pub extra: u64,
    /// Clients whose events all have the right kind.
    pub kind: u64,
    /// Clients whose events all name the right address.
    pub ip: u64,
    /// Clients not so, whose other events are ambiguous with the right address
    /// among the candidates.
    pub hedged: u64,
    /// Clients that are neither.
    pub wrong: u64,
    /// Clients whose events all name the right product.
    pub product: u64,
    /// Events, not suspect, of clients that never were.
    pub ghosts: u64,
    /// Events marked suspect.
    pub suspect: u64,
    /// Bare and dropped connections made.
    pub probes: u64,
    /// Of those, without an event at their address.
    pub missed: u64,
    /// Events of bare or dropped connections that were not made from there.
    pub false_probes: u64,
    /// Clients' events by label.
    pub exact: u64,
    /// See `exact`.
    pub inferred: u64,
    /// See `exact`.
    pub ambiguous: u64,
    /// See `exact`.
    pub unknown: u64,
    /// Events labelled exact with a wrong address.
    pub exact_wrong: u64,
    /// Events labelled exact or inferred with a wrong address.
    pub sure_wrong: u64,
    /// Addresses named by the ambiguous events, together.
    pub candidates: u64,
}

/// A client of the truth and what was read of it.
struct Client<'a> {
    truth: &'a Action,
    requests: u64,
    events: Vec<&'a Event>,
}

impl Figures {
    /// Scores `events` against `truth`.
    #[must_use]
    pub fn of(truth: &[Action], events: &[Event]) -> Self {
        let mut clients = clients(truth);
        let mut figures = Self {
            ghosts: hand_out(events, &mut clients),
            suspect: count(events, |event| event.suspect),
            ..Self::default()
        };
        for client in &clients {
            figures.add_client(client);
        }
        figures.add_probes(truth, events);
        figures
    }

    fn add_client(
        &mut self,
        Client {
            truth,
            requests,
            events,
        }: &Client<'_>,
    ) {
        self.clients += 1;
        self.requests += requests;
        if events.is_empty() {
            return;
        }
        let found = count(events, |_| true);
        self.found += 1;
        self.requests_found += found.min(*requests);
        self.extra += found.saturating_sub(*requests);
        self.kind += u64::from(events.iter().all(|event| event.kind == truth.kind));
        self.product += u64::from(events.iter().all(|event| event.product == truth.product));

        let right = |event: &Event| event.ip.as_ref() == Some(&truth.ip);
        let hedged = |event: &Event| {
            event.attribution == Some(Attribution::Ambiguous)
                && event.candidates.contains(&truth.ip)
        };
        for event in events {
            let wrong = u64::from(!right(event));
            match event.attribution {
                Some(Attribution::Exact) => {
                    self.exact += 1;
                    self.exact_wrong += wrong;
                    self.sure_wrong += wrong;
                }
                Some(Attribution::Inferred) => {
                    self.inferred += 1;
                    self.sure_wrong += wrong;
                }
                Some(Attribution::Ambiguous) => {
                    self.ambiguous += 1;
                    self.candidates += count(&event.candidates, |_| true);
                }
                Some(Attribution::Unknown) => self.unknown += 1,
                None => {}
            }
        }
        if events.iter().all(|event| right(event)) {
            self.ip += 1;
        } else if events.iter().all(|event| right(event) || hedged(event)) {
            self.hedged += 1;
        } else {
            self.wrong += 1;
        }
    }

    fn add_probes(&mut self, truth: &[Action], events: &[Event]) {
        let bare = |kind| matches!(kind, Kind::Probe | Kind::Dropped);
        // Per address: connections made, and events that say so.
        let mut seen = HashMap::<Option<&str>, (u64, u64)>::new();
        for action in truth.iter().filter(|action| bare(action.kind)) {
            seen.entry(Some(&action.ip)).or_default().0 += 1;
        }
        for event in events
            .iter()
            .filter(|event| bare(event.kind) && !event.suspect)
        {
            seen.entry(event.ip.as_deref()).or_default().1 += 1;
        }
        for (made, told) in seen.into_values() {
            self.probes += made;
            self.missed += made.saturating_sub(told);
            self.false_probes += told.saturating_sub(made);
        }
    }

    /// Clients' events that have a label.
    #[must_use]
    pub fn labelled(&self) -> u64 {
        self.exact + self.inferred + self.ambiguous + self.unknown
    }
}

/// The truth's clients, in the order of their first action.
fn clients(truth: &[Action]) -> Vec<Client<'_>> {
    let mut clients = Vec::<Client<'_>>::new();
    let mut known = HashMap::new();
    for action in truth
        .iter()
        .filter(|action| matches!(action.kind, Kind::Activation | Kind::Refused))
    {
        let requests = match action.kind {
            Kind::Activation => action.requests.unwrap_or(1),
            _ => 1, // the client gives up after a refusal
        };
        let key = (&action.cmid, &action.product, action.kind, &action.ip);
        let at = *known.entry(key).or_insert(clients.len());
        match clients.get_mut(at) {
            Some(client) => client.requests += requests,
            None => clients.push(Client {
                truth: action,
                requests,
                events: Vec::new(),
            }),
        }
    }
    clients
}

/// Gives each request's event to the client it tells of: the one with that
/// machine id and product, else machine id, else name and product, else name.
/// Returns how many events, not suspect, fit none.
fn hand_out<'a>(events: &'a [Event], clients: &mut [Client<'a>]) -> u64 {
    let mut by_product = HashMap::new();
    let mut by_id = HashMap::new();
    for (at, client) in clients.iter().enumerate() {
        let Action {
            workstation,
            cmid,
            product,
            ..
        } = client.truth;
        for id in [cmid.as_deref(), Some(mark(workstation.as_deref()))] {
            by_product.insert((id, product.as_deref()), at);
            by_id.insert(id, at);
        }
    }
    let mut ghosts = 0;
    for event in events
        .iter()
        .filter(|event| matches!(event.kind, Kind::Activation | Kind::Refused))
    {
        let cmid = event.client_machine_id.as_deref();
        let name = Some(mark(event.workstation.as_deref()));
        let find = |id: Option<&'a str>| {
            let product = event.product.as_deref();
            by_product
                .get(&(id, product))
                .or_else(|| by_id.get(&id))
                .copied()
        };
        let client = find(cmid)
            .or_else(|| find(name))
            .and_then(|at| clients.get_mut(at));
        match client {
            Some(client) => client.events.push(event),
            None => ghosts += u64::from(!event.suspect),
        }
    }
    ghosts
}

/// What identifies a client where the log has no machine id: the `h` and two
/// digits that hostile names begin with, else the name's first line.
///
/// A name is cut where clients cut it, at 63 characters: what the truth says a
/// client should call itself may not fit the field.
fn mark(name: Option<&str>) -> &str {
    let name = name.unwrap_or_default();
    let is_mark = match name.as_bytes() {
        [b'h', tens, ones, next, ..] => {
            tens.is_ascii_digit() && ones.is_ascii_digit() && !next.is_ascii_digit()
        }
        _ => false,
    };
    if is_mark {
        return name.get(..3).unwrap_or(name);
    }
    let end = name.char_indices().nth(63).map_or(name.len(), |(at, _)| at);
    let fits = name.get(..end).unwrap_or(name);
    fits.split('\n').next().unwrap_or_default().trim()
}

fn count<T>(items: &[T], is: impl Fn(&T) -> bool) -> u64 {
    items.iter().map(|item| u64::from(is(item))).sum()
}

impl AddAssign<&Self> for Figures {
    fn add_assign(&mut self, other: &Self) {
        let Self {
            clients,
            found,
            requests,
            requests_found,
            extra,
            kind,
            ip,
            hedged,
            wrong,
            product,
            ghosts,
            suspect,
            probes,
            missed,
            false_probes,
            exact,
            inferred,
            ambiguous,
            unknown,
            exact_wrong,
            sure_wrong,
            candidates,
        } = other;
        self.clients += clients;
        self.found += found;
        self.requests += requests;
        self.requests_found += requests_found;
        self.extra += extra;
        self.kind += kind;
        self.ip += ip;
        self.hedged += hedged;
        self.wrong += wrong;
        self.product += product;
        self.ghosts += ghosts;
        self.suspect += suspect;
        self.probes += probes;
        self.missed += missed;
        self.false_probes += false_probes;
        self.exact += exact;
        self.inferred += inferred;
        self.ambiguous += ambiguous;
        self.unknown += unknown;
        self.exact_wrong += exact_wrong;
        self.sure_wrong += sure_wrong;
        self.candidates += candidates;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
        let ratio = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        write!(
            f,
            "clients {}/{} requests {}/{} extra {} kind {} ip {} hedged {} WRONG {} product {} ghosts {} \
             suspect {} probes {} missed {} false {} exact {} inferred {} ambiguous {} exact-wrong {} \
             sure-wrong {} sure {:.1}% candidates {:.1}",
            self.found,
            self.clients,
            self.requests_found,
            self.requests,
            self.extra,
            self.kind,
            self.ip,
            self.hedged,
            self.wrong,
            self.product,
            self.ghosts,
            self.suspect,
            self.probes,
            self.missed,
            self.false_probes,
            self.exact,
            self.inferred,
            self.ambiguous,
            self.exact_wrong,
            self.sure_wrong,
            100.0 * ratio(self.exact + self.inferred, self.labelled()),
            ratio(self.candidates, self.ambiguous),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, mark};

    const TRUTH: &str = r#"
{"kind":"activation","ip":"192.0.2.1","workstation":"PC1","cmid":"a1","product":"Windows 7","requests":2}
{"kind":"activation","ip":"192.0.2.1","workstation":"PC1","cmid":"a1","product":"Windows 7","requests":1}
{"kind":"activation","ip":"192.0.2.2","workstation":"PC2","cmid":"a2","product":"Windows 8","requests":1}
{"kind":"refused","ip":"192.0.2.3","workstation":"PC3","cmid":"a3","product":"Windows 8","requests":4}
{"kind":"activation","ip":"192.0.2.4","workstation":"h07\nx","cmid":"a4","product":"Windows 8","requests":1}
{"kind":"activation","ip":"192.0.2.5","workstation":"PC5","cmid":"a5","product":"Windows 8","requests":1}
{"kind":"activation","ip":"192.0.2.6","workstation":"PC6","cmid":"a6","product":"Windows 8","requests":1}
{"kind":"probe","ip":"192.0.2.9","sent":""}
{"kind":"probe","ip":"192.0.2.9","sent":""}
{"kind":"dropped","ip":"198.51.100.1"}
"#;

    const EVENTS: &str = r#"
{"kind":"server_started"}
{"kind":"activation","ip":"192.0.2.1","workstation":"PC1","client_machine_id":"a1","product":"Windows 7","attribution":"exact"}
{"kind":"activation","ip":"192.0.2.1","workstation":"PC1","client_machine_id":"a1","product":"Windows 7","attribution":"inferred"}
{"kind":"activation","ip":"192.0.2.9","workstation":"PC2","client_machine_id":"a2","product":"Windows 8","attribution":"ambiguous","candidates":["192.0.2.9","192.0.2.2"]}
{"kind":"refused","ip":"192.0.2.3","workstation":"PC3","product":"Windows 8","attribution":"exact"}
{"kind":"refused","ip":"192.0.2.9","workstation":"PC3","client_machine_id":"a3","product":"Windows 9","attribution":"exact"}
{"kind":"refused","ip":"192.0.2.4","workstation":"h07�x","product":"Windows 8","attribution":"inferred"}
{"kind":"activation","workstation":"PC5","client_machine_id":"a5","product":"Windows 8","attribution":"unknown"}
{"kind":"activation","ip":"192.0.2.7","workstation":"PC7","client_machine_id":"a7","product":"Windows 8","attribution":"exact"}
{"kind":"activation","ip":"192.0.2.7","workstation":"PC7","client_machine_id":"a7","product":"Windows 8","attribution":"exact","suspect":true}
{"kind":"aborted","ip":"192.0.2.6","workstation":"PC6","client_machine_id":"a6","product":"Windows 8","attribution":"exact"}
{"kind":"probe","ip":"192.0.2.9"}
{"kind":"probe","ip":"192.0.2.8"}
{"kind":"probe","ip":"192.0.2.8","suspect":true}
{"kind":"dropped","ip":"198.51.100.1"}
"#;

    fn read<T: serde::de::DeserializeOwned>(lines: &str) -> Vec<T> {
        lines
            .trim()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn every_figure_counts_what_it_says() {
        let figures = Figures::of(&read(TRUTH), &read(EVENTS));
        assert_eq!(
            figures.to_string(),
            "clients 5/6 requests 6/8 extra 1 kind 4 ip 2 hedged 1 WRONG 2 product 4 ghosts 1 suspect 2 \
             probes 3 missed 1 false 1 exact 3 inferred 2 ambiguous 1 exact-wrong 1 sure-wrong 1 \
             sure 71.4% candidates 2.0"
        );
        let mut twice = figures.clone();
        twice += &figures;
        assert_eq!(
            (twice.clients, twice.requests_found, twice.candidates),
            (12, 12, 4)
        );
    }

    #[test]
    fn nothing_read_is_nothing_found() {
        let figures = Figures::of(&read(TRUTH), &[]);
        assert_eq!((figures.clients, figures.found, figures.wrong), (6, 0, 0));
        assert_eq!((figures.probes, figures.missed), (3, 3));
    }

    #[test]
    fn names_that_mean_one_client_have_one_mark() {
        assert_eq!(mark(Some("h07\u{202E}gnp.exe")), "h07");
        assert_eq!(mark(Some("h042026-01-01")), "h042026-01-01");
        assert_eq!(mark(Some("  spaced  \nmore")), "spaced");
        assert_eq!(mark(None), "");
        let cut = "ж".repeat(63);
        assert_eq!(mark(Some(&format!("{cut}."))), cut);
    }
}
