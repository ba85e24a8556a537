//! What a message looks like.

use std::char::REPLACEMENT_CHARACTER;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use super::payload::{Payload, Text};
use crate::event::{Attribution, EventTime, Kind};
use crate::policy::{Body, Digest, Notice};

/// From this age on a message says when its event happened.
const OLD: SignedDuration = SignedDuration::from_mins(5);

/// How many candidates of an ambiguous event are shown.
const SHOWN_CANDIDATES: usize = 8;

/// What no honest machine is called: words of the server's own log lines.
const LOG_WORDS: [&str; 10] = [
    "connection accepted",
    "connection closed",
    "KMS request",
    "request from ",
    "Sending response",
    "count policy",
    "Application ID",
    "Activation ID",
    "Workstation name",
    "Client machine ID",
];

/// How messages are dressed; what is absent is the webhook's own setting.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// Channel to post to. Only old kinds of webhooks take it.
    pub channel: Option<String>,
    /// Name to post under. Likewise.
    pub user_name: Option<String>,
    /// Picture to post under. Likewise.
    pub icon: Option<Icon>,
}

/// A message's picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Icon {
    /// An emoji code, colons included.
    Emoji(String),
    /// A picture's address.
    Url(String),
}

/// The text is neither an emoji code nor a picture's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an emoji code (:key:) or an https:// address of a picture")]
pub struct IconError;

impl FromStr for Icon {
    type Err = IconError;

    fn from_str(text: &str) -> Result<Self, IconError> {
        let code = text
            .strip_prefix(':')
            .and_then(|rest| rest.strip_suffix(':'));
        match code {
            Some(code) if !code.is_empty() && !code.contains(char::is_whitespace) => {
                Ok(Self::Emoji(text.to_owned()))
            }
            _ if text.starts_with("https://") => Ok(Self::Url(text.to_owned())),
            _ => Err(IconError),
        }
    }
}

/// Renders a message as it is to be posted at `now`.
#[must_use]
pub fn render(body: &Body, now: Timestamp, style: &Style) -> Payload {
    let payload = match body {
        Body::Notice(notice) => render_notice(notice, now),
        Body::Digest(digest) => render_digest(digest, now),
        Body::Alert(alert) => {
            let mut payload = Payload::new(&alert.title, &alert.title);
            payload.push_lines([Text::of_alert(&alert.text)]);
            payload
        }
    };
    dress(payload, style)
}

/// A message that says that messages arrive.
#[must_use]
pub fn render_test(style: &Style) -> Payload {
    let mut payload = Payload::new("KMS notifier test", "KMS notifier test");
    payload.push_lines([Text::new(
        "This webhook works: activations will be told here.",
    )]);
    dress(payload, style)
}

fn dress(mut payload: Payload, style: &Style) -> Payload {
    payload.channel.clone_from(&style.channel);
    payload.username.clone_from(&style.user_name);
    match &style.icon {
        Some(Icon::Emoji(code)) => payload.icon_emoji = Some(code.clone()),
        Some(Icon::Url(url)) => payload.icon_url = Some(url.clone()),
        None => {}
    }
    payload
}

fn render_notice(notice: &Notice, now: Timestamp) -> Payload {
    let (title, verb) = match notice.kind {
        Kind::Refused => ("KMS request refused", "was refused"),
        _ => ("KMS activation", "activated"),
    };
    let notification = format!("{} {verb} {}", client(notice), product(notice));
    let mut payload = Payload::new(title, &notification);

    let mut fields = vec![("Client", Text::new(&client(notice)))];
    let workstation = notice.workstation.as_deref().map(Text::new);
    fields.extend(workstation.clone().map(|name| ("Workstation", name)));
    fields.push(("Product", Text::new(&product(notice))));
    if let Some(status) = notice.status {
        fields.push(("Status before", Text::new(status)));
    }
    fields.push(("Outcome", Text::new(&outcome(notice))));
    if let Some(attribution) = attribution(notice) {
        fields.push(("Attribution", Text::new(&attribution)));
    }
    if let Some(mark) = workstation.as_ref().and_then(name_mark) {
        fields.push(("Warning", Text::new(mark)));
    }
    if let Some(time) = notice.time.filter(|time| is_old(*time, now)) {
        fields.push(("Time", Text::new(&time.to_string())));
    }
    if let Some(times) = times(notice) {
        fields.push(("Seen", Text::new(&times)));
    }
    payload.push_fields(&fields);
    payload
}

fn render_digest(digest: &Digest, now: Timestamp) -> Payload {
    let clients = digest.rows.len() + digest.more_rows;
    let title = format!(
        "KMS digest: {} from {}",
        requests(digest.events()),
        counted(clients as u64, "client and product", "clients and products")
    );
    let mut payload = Payload::new(&title, &title);
    if let Some(time) = digest.since.filter(|time| is_old(*time, now)) {
        payload.push_lines([Text::new(&format!("Since {time}"))]);
    }
    payload.push_lines(digest.rows.iter().map(|row| Text::new(&digest_row(row))));
    if digest.more_rows > 0 {
        let rows = digest.more_rows as u64;
        let more = counted(rows, "more client and product", "more clients and products");
        let events = requests(digest.more_events);
        payload.push_lines([Text::new(&format!("… and {more} with {events}"))]);
    }
    if digest.overflow > 0 {
        let events = counted(digest.overflow, "more request", "more requests");
        payload.push_lines([Text::new(&format!(
            "… and {events} while the queue was full"
        ))]);
    }
    payload
}

fn digest_row(row: &Notice) -> String {
    let mut text = format!("{}: {}", client(row), product(row));
    if row.kind == Kind::Refused {
        text.push_str(", refused");
    }
    if matches!(
        row.attribution,
        Some(Attribution::Ambiguous | Attribution::Unknown)
    ) && let Some(workstation) = &row.workstation
    {
        // The client's words last, where they can imitate nothing after them.
        return format!("{text} × {}, {workstation}", row.count);
    }
    format!("{text} × {}", row.count)
}

/// `10.10.1.7 (internal_pod)`.
fn client(notice: &Notice) -> String {
    let perhaps = match notice.attribution {
        Some(Attribution::Ambiguous) => "perhaps ",
        _ => "",
    };
    match (notice.ip, &notice.source) {
        (Some(ip), Some(source)) => format!("{perhaps}{ip} ({source})"),
        (Some(ip), None) => format!("{perhaps}{ip}"),
        (None, _) => "unknown address".to_owned(),
    }
}

fn product(notice: &Notice) -> String {
    notice
        .product
        .as_deref()
        .unwrap_or("a product that the log does not show")
        .to_owned()
}

fn outcome(notice: &Notice) -> String {
    if notice.kind != Kind::Refused {
        return "Activated".to_owned();
    }
    let reason = notice.reason.as_deref();
    match (reason, notice.hresult) {
        (Some(reason), Some(code)) => format!("Refused: {reason} (0x{code:08X})"),
        (Some(reason), None) => format!("Refused: {reason}"),
        (None, Some(code)) => format!("Refused: 0x{code:08X}"),
        (None, None) => "Refused".to_owned(),
    }
}

/// How sure the address is, unless it is certain.
fn attribution(notice: &Notice) -> Option<String> {
    match notice.attribution? {
        Attribution::Exact => None,
        Attribution::Inferred => Some("inferred from the log".to_owned()),
        Attribution::Unknown => Some("the log does not tell the address".to_owned()),
        Attribution::Ambiguous => {
            let shown: Vec<String> = notice
                .candidates
                .iter()
                .take(SHOWN_CANDIDATES)
                .map(IpAddr::to_string)
                .collect();
            let more = notice.candidates.len() - shown.len() + notice.more_candidates;
            let mut text = format!("one of {}", shown.join(", "));
            if more > 0 {
                text.push_str(&format!(" and {more} more"));
            }
            Some(text)
        }
    }
}

/// What is odd about a workstation name that no honest machine has.
fn name_mark(name: &Text) -> Option<&'static str> {
    let name = name.as_str();
    // What was cleaned, here or where the line was read, left this behind.
    if name.contains(REPLACEMENT_CHARACTER) {
        Some("the workstation name contains control characters")
    } else if LOG_WORDS.iter().any(|words| name.contains(words)) {
        Some("the workstation name imitates a log line")
    } else {
        None
    }
}

fn times(notice: &Notice) -> Option<String> {
    let times = |count| counted(count, "time", "times");
    let here = (notice.count > 1).then(|| times(notice.count));
    let before = (notice.repeats > 0).then(|| format!("{} since last told", times(notice.repeats)));
    match (here, before) {
        (Some(here), Some(before)) => Some(format!("{here}, and {before}")),
        (here, before) => here.or(before),
    }
}

fn requests(count: u64) -> String {
    counted(count, "request", "requests")
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn is_old(time: EventTime, now: Timestamp) -> bool {
    now.duration_since(time.at) > OLD
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::event::Event;
    use crate::policy::testing::{activation, at, refusal};
    use crate::policy::watches::Watches;
    use crate::policy::{Alert, Policy, Settings};
    use serde_json::Value;

    fn policy() -> Policy {
        Policy::new(
            Settings {
                post_refused: true,
                ..Settings::default()
            },
            1,
        )
    }

    fn body(mut event: Event) -> Body {
        let mut policy = policy();
        policy.handle_event(&mut event, at(0));
        policy.poll_delivery(at(0)).unwrap().body
    }

    fn json(payload: &Payload) -> Value {
        serde_json::to_value(payload).unwrap()
    }

    fn rendered(event: Event, now: i64) -> Value {
        json(&render(&body(event), at(now), &Style::default()))
    }

    fn named(name: &str) -> Event {
        let mut event = activation("203.0.113.42", "Windows 10 Professional");
        event.request.as_mut().unwrap().workstation = Some(name.into());
        event
    }

    fn digest(clients: usize) -> Body {
        let mut policy = policy();
        for n in 0..clients {
            let mut event = activation(&format!("10.10.0.{n}"), "Windows 10 Professional");
            policy.handle_event(&mut event, at(0));
        }
        policy.start_draining();
        policy.poll_delivery(at(0)).unwrap().body
    }

    #[test]
    fn a_normal_activation() {
        let event = activation("10.10.107.224", "Windows 10 Professional");
        insta::assert_json_snapshot!(rendered(event, 0));
    }

    #[test]
    fn a_refusal_in_a_style_of_its_own() {
        let style = Style {
            channel: Some("#kms".into()),
            user_name: Some("KMS".into()),
            icon: Some(":key:".parse().unwrap()),
        };
        let body = body(refusal("10.0.20.103", "Office 2019"));
        insta::assert_json_snapshot!(json(&render(&body, at(0), &style)));
    }

    #[test]
    fn an_old_ambiguous_activation_seen_often() {
        let mut event = activation("10.10.1.7", "Windows 10 Professional");
        event.attribution = Some(Attribution::Ambiguous);
        event.candidates = (7..30)
            .map(|n| format!("10.10.1.{n}").parse().unwrap())
            .collect();
        event.time = Some(EventTime::utc(at(0)));
        let Body::Notice(mut notice) = body(event) else {
            panic!()
        };
        (notice.count, notice.repeats) = (3, 12);
        insta::assert_json_snapshot!(json(&render(
            &Body::Notice(notice),
            at(301),
            &Style::default()
        )));
    }

    #[test]
    fn the_time_shows_from_five_minutes_on() {
        let mut event = activation("10.10.1.7", "Windows 10 Professional");
        event.time = Some(EventTime::utc(at(0)));
        assert!(!rendered(event.clone(), 300).to_string().contains("Time"));
        assert!(
            rendered(event, 301)
                .to_string()
                .contains("Time\\n1970-01-01T00:00:00")
        );
    }

    #[test]
    fn an_unknown_client_and_product() {
        let mut event = activation("10.10.1.7", "");
        event.ip = None;
        event.attribution = Some(Attribution::Unknown);
        event.request = None;
        insta::assert_snapshot!(
            render(&body(event), at(0), &Style::default()).to_string(),
            @"KMS activation; Client: unknown address; Product: a product that the log does not show; Outcome: Activated; Attribution: the log does not tell the address"
        );
    }

    #[test]
    fn a_digest() {
        insta::assert_json_snapshot!(json(&render(&digest(3), at(0), &Style::default())));
    }

    #[test]
    fn a_large_digest_lists_forty_and_counts_the_rest() {
        let Body::Digest(mut digest) = digest(45) else {
            panic!()
        };
        digest.overflow = 7;
        digest.since = Some(EventTime::utc(at(0)));
        let body = Body::Digest(digest);
        let text = render(&body, at(1000), &Style::default()).to_string();
        assert_eq!(text.matches("Windows 10 Professional").count(), 40);
        assert!(text.starts_with(
            "KMS digest: 52 requests from 45 clients and products; Since 1970-01-01T00:00:00"
        ));
        assert!(text.ends_with(
            "; … and 5 more clients and products with 5 requests; \
             … and 7 more requests while the queue was full"
        ));
    }

    /// What a client chooses is cut early; what the program says of itself is not.
    #[test]
    fn the_longest_alerts_are_whole() {
        let log: Arc<str> = "l".repeat(64).into();
        let after = Duration::from_secs(31 * 24 * 3600 - 1);
        let mut watches = Watches::new(std::slice::from_ref(&log), Some(after), at(0));
        watches.handle_lines(&log, true, 9_999, 9_999, at(0));
        let late = i64::MAX / 1_000_000_000 * 20;
        let mut alerts: Vec<_> = std::iter::from_fn(|| watches.poll(at(late))).collect();
        watches.handle_lines(&log, false, 1, 0, at(late));
        alerts.extend(watches.poll(at(late)));
        assert_eq!(alerts.len(), 3, "no longer understood, silent, heard again");
        for Alert { title, text } in alerts.into_iter().map(|watched| watched.alert) {
            let whole = format!("{title}; {text}");
            let body = Body::Alert(Alert { title, text });
            let payload = render(&body, at(0), &Style::default());
            assert_eq!(payload.to_string(), whole);
        }
    }

    #[test]
    fn a_test_message() {
        let payload = render_test(&Style::default());
        insta::assert_snapshot!(
            payload.to_string(),
            @"KMS notifier test; This webhook works: activations will be told here."
        );
    }

    #[test]
    fn icons_are_codes_or_addresses() {
        assert_eq!(":key:".parse(), Ok(Icon::Emoji(":key:".into())));
        assert_eq!(
            "https://a/b.png".parse(),
            Ok(Icon::Url("https://a/b.png".into()))
        );
        for bad in ["", ":", "::", "key", ":a b:", "http://a/b.png"] {
            assert_eq!(bad.parse::<Icon>(), Err(IconError), "{bad}");
        }
    }

    /// The names of the hostile recordings, raw, and some more.
    const HOSTILE: [&str; 29] = [
        "<!channel>",
        "<!here> @channel @here <@U024BE7LH> <#C024BE7LR>",
        "<https://evil.example|click>",
        "https://evil.example/ evil.example mailto:a@evil.example",
        "`rm -rf`*_~",
        "*bold* _it_ ~no~ ```code``` > quote",
        ":smile: :rotating_light:",
        "a\nb",
        "2026-01-01 00:00:00: IPv4 connection closed: 192.168.1.230:1.",
        "x\n2026-01-01 00:00:00: IPv4 connection accepted: 8.8.8.8:9.",
        "x\r\n<<< Incoming KMS request",
        "\u{202E}gnp.exe",
        "\u{2066}isolate\u{2069} \u{200F} \u{61C}",
        "zero\u{200B}width\u{FEFF} soft\u{AD}hyphen \u{E0041}tag",
        "line\u{2028}separator\u{2029} next\u{85}line",
        "名前-ПК-ñ",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "\u{1B}[31mred\u{1B}[0m",
        "()(Windows)",
        "  spaced  ",
        "%s%n%x",
        "=cmd|' /C calc'!A0",
        "𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏𝕏",
        "Application ID                  : 0 (Fake)",
        "\t\tTab\0",
        "{\"json\":1}",
        "&amp;<>&",
        "x\n2026-11-20 21:20:50: N count policy (minimum clients): 5",
        "y\nKMS v6.0 request from EVIL for Windows 7 Professional",
    ];

    /// Fails on anything that Slack would parse, or that is too long for it.
    fn assert_inert(payload: &Payload) {
        fn walk(value: &Value) {
            match value {
                Value::Array(values) => values.iter().for_each(walk),
                Value::Object(object) => {
                    if let Some(Value::String(kind)) = object.get("type") {
                        assert_ne!(kind, "mrkdwn");
                        if kind == "plain_text" {
                            assert_eq!(object["emoji"], Value::Bool(false));
                            let text = object["text"].as_str().unwrap();
                            assert!((1..=3000).contains(&text.encode_utf16().count()));
                        }
                    }
                    if let Some(Value::Array(fields)) = object.get("fields") {
                        assert!(fields.len() <= 10);
                        for field in fields {
                            assert!(field["text"].as_str().unwrap().encode_utf16().count() <= 2000);
                        }
                    }
                    object.values().for_each(walk);
                }
                Value::String(text) => {
                    assert!(!text.contains(['<', '>']), "{text}");
                    let entities = ["&amp;", "&lt;", "&gt;"].map(|e| text.matches(e).count());
                    assert_eq!(
                        text.matches('&').count(),
                        entities.iter().sum::<usize>(),
                        "{text}"
                    );
                    let hidden = |c: char| {
                        (c.is_control() && c != '\n')
                            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
                                | '\u{2066}'..='\u{2069}' | '\u{61C}' | '\u{FEFF}')
                    };
                    assert!(!text.contains(hidden), "{text:?}");
                }
                _ => {}
            }
        }
        let value = json(payload);
        let blocks = value["blocks"].as_array().unwrap();
        assert!(blocks.len() <= 50);
        let header = blocks[0]["text"]["text"].as_str().unwrap();
        assert!(header.encode_utf16().count() <= 150);
        walk(&value);
    }

    #[test]
    fn hostile_names_are_inert_and_stay_in_their_field() {
        let mut shown = Vec::new();
        for name in HOSTILE {
            let payload = render(&body(named(name)), at(0), &Style::default());
            assert_inert(&payload);
            assert!(!payload.to_string().contains('\n'));
            let value = json(&payload);
            // The notification text is the same whatever the client is called.
            assert_eq!(
                value["text"],
                "203.0.113.42 (external) activated Windows 10 Professional"
            );
            let fields = value["blocks"][1]["fields"].as_array().unwrap();
            for field in fields {
                assert_eq!(field["text"].as_str().unwrap().matches('\n').count(), 1);
            }
            let warning = fields.iter().find_map(|field| {
                field["text"]
                    .as_str()
                    .unwrap()
                    .strip_prefix("Warning\n")
                    .map(str::to_owned)
            });
            shown.push((fields[1]["text"].clone(), warning));
        }
        insta::assert_debug_snapshot!(shown);
    }

    #[test]
    fn hostile_digests_stay_within_slacks_bounds() {
        let mut policy = policy();
        for n in 0..60 {
            let mut event = activation(
                &format!("10.10.0.{n}"),
                &format!("{n} {}", "<&".repeat(500)),
            );
            event.attribution = Some(Attribution::Ambiguous);
            event.request.as_mut().unwrap().workstation = Some(HOSTILE[n % HOSTILE.len()].into());
            policy.handle_event(&mut event, at(0));
        }
        policy.start_draining();
        let body = policy.poll_delivery(at(0)).unwrap().body;
        let payload = render(&body, at(0), &Style::default());
        assert_inert(&payload);
        assert_eq!(payload.to_string().matches("(cut)").count(), 40);
    }
}
