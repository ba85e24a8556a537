//! The documentation names everything that the code has: nothing is forgotten
//! when a field or a class comes, and nothing stays when one goes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use notifier::event::{
    Attribution, Dedup, Event, EventId, EventTime, Kind, Request, TimeSource, VERSION,
};
use notifier::line::Class;
use uuid::Uuid;

/// A page, read from the repository.
fn page(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names in the first cells of the tables under a heading, up to the next one.
fn listed(page: &str, heading: &str) -> BTreeSet<String> {
    let section = page.lines().skip_while(|line| *line != heading).skip(1);
    let names: BTreeSet<String> = section
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert!(!names.is_empty(), "no table under {heading:?}");
    names
}

fn set(names: impl IntoIterator<Item = &'static str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// An event with every field. A field that is added must be named here, or this
/// does not compile, and then in docs/events.md.
fn full() -> Event {
    let id = EventId([1; 16]);
    let text = || Some("text".into());
    let uuid = Some(Uuid::from_u128(1));
    Event {
        v: VERSION,
        id,
        log: "log".into(),
        time: Some(EventTime::utc(Timestamp::UNIX_EPOCH)),
        time_source: TimeSource::Server,
        kind: Kind::Activation,
        connection: Some(id),
        request_number: Some(1),
        ip: "192.0.2.1".parse().ok(),
        port: Some(1),
        zone: text(),
        source: Some("external".into()),
        request: Some(Box::new(Request {
            // Not printed: it only names a metrics label.
            protected: false,
            application: text(),
            product: text(),
            activation_id: uuid,
            kms_counted_id: uuid,
            workstation: text(),
            client_machine_id: uuid,
            previous_client_machine_id: uuid,
            status: Some("Licensed"),
            status_code: Some(1),
            protocol: text(),
            virtual_machine: Some(false),
            remaining_minutes: Some(0),
            min_clients: Some(25),
            client_time: text(),
        })),
        hresult: Some(0xC004_F042),
        reason: text(),
        epid: text(),
        active_clients: Some(50),
        attribution: Some(Attribution::Ambiguous),
        candidates: "192.0.2.1".parse().into_iter().collect(),
        suspect: true,
        dedup: Some(Dedup::Post),
    }
}

#[test]
fn every_field_of_an_event_is_described() {
    let json = serde_json::to_value(full()).unwrap();
    let fields: BTreeSet<String> = json.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, listed(&page("docs/events.md"), "## Fields"));
}

#[test]
fn every_kind_and_attribution_is_described() {
    let events = page("docs/events.md");
    let kinds = [
        Kind::Activation,
        Kind::Refused,
        Kind::Aborted,
        Kind::Probe,
        Kind::Dropped,
        Kind::ServerStarted,
        Kind::ServerStopped,
    ];
    assert_eq!(
        set(kinds.map(Kind::as_str)),
        listed(&events, "## Kinds"),
        "a new kind belongs into the list above, too"
    );
    assert_eq!(
        set(Attribution::ALL.map(Attribution::as_str)),
        listed(&events, "## Attribution")
    );
}

#[test]
fn every_class_of_lines_is_described() {
    assert_eq!(
        set(Class::ALL.map(Class::as_str)),
        listed(&page("docs/metrics.md"), "### Line classes")
    );
}

/// Links to files of the repository lead somewhere. (Anchors are not checked.)
#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![
        root.join("README.md"),
        root.join("CONTRIBUTING.md"),
        root.join("CHANGELOG.md"),
        root.join("fixtures/README.md"),
    ];
    let docs = fs::read_dir(root.join("docs")).unwrap();
    pages.extend(docs.map(|entry| entry.unwrap().path()));
    for path in pages {
        let text = fs::read_to_string(&path).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| {
            let (target, _) = rest.split_once(')')?;
            let (file, _) = target.split_once('#').unwrap_or((target, ""));
            (!file.is_empty() && !target.contains("://")).then_some(file)
        });
        for target in targets {
            let file = path.parent().unwrap().join(target);
            assert!(
                file.exists(),
                "{} links to {target}, which is not there",
                path.display()
            );
        }
    }
}
