use std::sync::Arc;

use super::*;
use crate::event::{Attribution, Dedup, Event, EventId, EventTime, Kind, Request};
use crate::sink::metrics::Setup;

const NOW: &str = "2026-03-04T12:34:56Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn event(kind: Kind, time: &str) -> Event {
    let time = Some(EventTime::utc(at(time)));
    Event {
        ip: Some("192.0.2.1".parse().unwrap()),
        source: Some("external".into()),
        ..Event::new(EventId([0; 16]), "kms".into(), time, kind)
    }
}

fn activation(time: &str, workstation: &str) -> Event {
    Event {
        request: Some(Box::new(Request {
            workstation: Some(workstation.into()),
            product: Some("Windows 11".into()),
            status: Some("OOB grace"),
            ..Request::default()
        })),
        attribution: Some(Attribution::Exact),
        dedup: Some(Dedup::Post),
        ..event(Kind::Activation, time)
    }
}

fn rendered(events: &[Event], query: &str) -> String {
    let log: Arc<str> = "kms".into();
    let metrics = Metrics::new(Setup {
        logs: &[Arc::clone(&log)],
        sources: &[],
        line_classes: &[],
        product: Box::new(|_| "unknown"),
        version: "0",
        revision: "unknown",
    });
    let recent = Recent::new(at("2026-03-04T08:00:00Z"));
    let real = events.iter().filter(|event| !event.suspect);
    let activations = real.filter(|event| event.kind == Kind::Activation);
    let products = activations.map(|_| "Windows 11").collect();
    recent.observe(events, &products, at(NOW));
    let page = Page::new(recent);
    page.render(Some(query), &metrics, &Readiness::new([&log]), at(NOW))
        .unwrap()
}

/// How many rows the table of events has.
fn rows(html: &str) -> usize {
    html.matches("<td class=\"t\">").count()
}

#[test]
fn text_from_a_client_is_text() {
    let name = "<script>alert(1)</script>\"'&<img src=x onerror=1>";
    let html = rendered(&[activation(NOW, name)], "");
    assert!(
        !html.contains("<script") && !html.contains("<img"),
        "{html}"
    );
    assert!(html.contains("&#60;script&#62;alert(1)"), "{html}");
    // The query is no place to write into the page either.
    let html = rendered(&[], "kind=\"><script>&refresh=<b>&<i>=x");
    assert!(!html.contains("<script") && !html.contains("<b>"), "{html}");
}

#[test]
fn the_policy_names_the_style_that_is_there_and_nothing_else() {
    let html = rendered(&[], "");
    let (_, rest) = html.split_once("<style>").unwrap();
    let (style, _) = rest.split_once("</style>").unwrap();
    let hash = STANDARD.encode(Sha256::digest(style));
    let page = Page::new(Recent::new(at(NOW)));
    assert!(
        page.policy()
            .contains(&format!("style-src 'sha256-{hash}';"))
    );
    assert!(page.policy().starts_with("default-src 'none';"));
    for other in [
        "<script", " style=", " onclick", "http://", "https://", "url(",
    ] {
        assert!(!html.contains(other), "{other}");
    }
}

#[test]
fn a_filter_shows_one_kind_and_lasts_over_a_refresh() {
    let events = [
        activation(NOW, "PC1"),
        event(Kind::Probe, NOW),
        event(Kind::Probe, NOW),
    ];
    let all = rendered(&events, "");
    assert_eq!(rows(&all), 3);
    assert!(
        all.contains("http-equiv=\"refresh\" content=\"30\""),
        "{all}"
    );
    let probes = rendered(&events, "kind=probe");
    assert_eq!(rows(&probes), 2);
    // No address in the refresh: a browser loads the same one again.
    assert!(probes.contains("http-equiv=\"refresh\" content=\"30\""));
    assert!(probes.contains("href=\"/?kind=probe\" aria-current=\"page\">Probe <span>2<"));
    assert!(
        probes.contains("href=\"/?kind=probe&#38;refresh=off\""),
        "{probes}"
    );
    let still = rendered(&events, "kind=probe&refresh=off");
    assert!(!still.contains("http-equiv"));
    assert!(still.contains("href=\"/?kind=refused&#38;refresh=off\""));
    assert_eq!(rows(&rendered(&events, "kind=nonsense")), 3);
    assert!(rendered(&events, "kind=dropped").contains("nothing of that yet"));
}

#[test]
fn a_flood_of_one_kind_leaves_the_others() {
    let mut events = vec![activation(NOW, "PC1")];
    events.extend((0..1000).map(|_| event(Kind::Probe, NOW)));
    assert_eq!(rows(&rendered(&events, "")), MAX_EVENTS);
    assert_eq!(rows(&rendered(&events, "kind=probe")), MAX_EVENTS);
    let activations = rendered(&events, "kind=activation");
    assert_eq!(rows(&activations), 1);
    assert!(activations.contains("Probe <span>1000</span>"));
}

#[test]
fn the_charts_count_the_last_day_by_the_hour() {
    let events = [
        activation("2026-03-04T12:00:00Z", "this hour"),
        activation("2026-03-04T12:59:59Z", "ahead of our clock"),
        activation("2026-03-04T11:59:59Z", "the hour before"),
        activation("2026-03-03T13:00:00Z", "the first hour"),
        activation("2026-03-03T12:59:59Z", "too old"),
    ];
    let html = rendered(&events, "");
    assert!(html.contains("Activations per hour: 4 in the last 24 hours, at most 2 in one"));
    for (hour, count, height) in [("12:00", 2, 60), ("11:00", 1, 30), ("13:00", 1, 30)] {
        let bar = format!("height=\"{height}\"><title>{hour}: {count}</title>");
        assert!(html.contains(&bar), "{bar}: {html}");
    }
    assert!(html.contains("Probes per hour: 0 in the last 24 hours, at most 0 in one"));
}

#[test]
fn what_may_be_forged_is_shown_and_counts_nowhere() {
    let forged = Event {
        suspect: true,
        ..activation(NOW, "PC1")
    };
    let html = rendered(&[forged], "");
    assert_eq!(rows(&html), 1);
    assert!(html.contains("<i>suspect</i>"));
    assert!(html.contains("All <span>0</span>"));
    assert!(html.contains("Activations per hour: 0 in"));
    assert!(html.contains("no activation yet") && html.contains("nobody came yet"));
}

#[test]
fn numbers_are_those_of_the_events() {
    let refused = Event {
        hresult: Some(0xC004_F042),
        attribution: Some(Attribution::Ambiguous),
        candidates: vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()],
        ..event(Kind::Refused, NOW)
    };
    let html = rendered(
        &[activation(NOW, "PC1"), refused, event(Kind::Probe, NOW)],
        "",
    );
    for part in [
        "external</th><td class=\"n\">1</td><td class=\"n\">1</td><td class=\"n\">1</td><td class=\"n\">0</td>",
        "Windows 11</th><td class=\"n\">1</td>",
        "exact</th><td class=\"n\">1</td><td class=\"n\">50 %</td>",
        "0xC004F042",
        "or 1 more",
        "was OOB grace, posted",
        "since 2026-03-04 08:00:00 UTC",
        "not ready: log kms waiting for the file to appear",
    ] {
        assert!(html.contains(part), "{part}: {html}");
    }
}
