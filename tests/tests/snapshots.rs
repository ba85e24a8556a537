//! Whole recordings as they are read: a change in any event shows as a change in
//! a line of one of these files.

use e2e::{Recording, replay};
use serde_json::Value;

/// One line per event, with what a reader of the log would look for.
fn compact(event: &Value) -> String {
    let text = |field: &str| event[field].as_str().map(str::to_owned);
    let mut line = text("kind").expect("an event has a kind");
    let ip = text("ip").map(|ip| match event["port"].as_u64() {
        Some(port) => format!("{ip} {port}"),
        None => ip,
    });
    line.extend(ip.map(|ip| format!(" from {ip}")));
    line.extend(event["request"].as_u64().map(|n| format!(" #{n}")));
    line.extend(text("workstation").map(|name| format!(" by {name:?}")));
    line.extend(text("product").map(|product| format!(" for {product}")));
    line.extend(text("hresult").map(|code| format!(" {code}")));
    line.extend(text("attribution").map(|how| format!(", {how}")));
    for other in event["candidates"].as_array().into_iter().flatten().skip(1) {
        line.extend(other.as_str().map(|ip| format!(" or {ip}")));
    }
    if event["suspect"] == true {
        line.push_str(", suspect");
    }
    line
}

fn assert_as_before(name: &str) {
    let events = replay(&[], &[&Recording::named(name).path]);
    let lines: Vec<_> = events.iter().map(compact).collect();
    insta::assert_snapshot!(name, lines.join("\n"));
}

#[test]
fn sequential() {
    assert_as_before("svn812-sequential");
}

#[test]
fn refused() {
    assert_as_before("svn1113-refused");
}

#[test]
fn dropped() {
    assert_as_before("svn1113-public-o2");
}

#[test]
fn hostile() {
    assert_as_before("svn1113-hostile");
}

#[test]
fn hostile_quiet() {
    assert_as_before("svn1113-hostile-quiet");
}

#[test]
fn quiet_and_held() {
    assert_as_before("svn1113-quiet-held");
}

#[test]
fn held_in_a_container() {
    assert_as_before("cri-svn1113-fork-held");
}

#[test]
fn syslog() {
    assert_as_before("svn1113-syslog-burst");
}
