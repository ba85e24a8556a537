use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::event::{EventId, EventTime, Request};

fn metrics() -> Metrics {
    Metrics::new(Setup {
        logs: &["kms".into(), "stdin".into()],
        sources: &[
            "internal_pod".into(),
            "cluster_node".into(),
            "external".into(),
        ],
        line_classes: &["accepted", "unrecognised"],
        product: Box::new(|event| match event.product() {
            Some("Windows 10 Pro") => "Windows 10 Pro",
            Some(_) => "unknown",
            None => "protected",
        }),
        version: "1.2.3",
        revision: "abc\"def",
    })
}

fn event(kind: Kind) -> Event {
    let time = EventTime::utc(Timestamp::constant(1_700_000_000, 500_000_000));
    Event::new(EventId([0; 16]), "kms".into(), Some(time), kind)
}

fn observe(metrics: &Metrics, event: &Event) {
    let _products = metrics.observe(std::slice::from_ref(event));
}

fn activation(product: Option<&str>, status: Option<&'static str>) -> Event {
    let request = Request {
        product: product.map(Into::into),
        status,
        ..Request::default()
    };
    Event {
        request: Some(Box::new(request)),
        attribution: Some(Attribution::Exact),
        ..event(Kind::Activation)
    }
}

/// The samples that are not 0, sorted (a family has no order of its own).
fn samples(metrics: &Metrics) -> String {
    let text = metrics.encode(Format::Classic).unwrap();
    let mut lines: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.ends_with(" 0"))
        .collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn what_exists_from_the_start() {
    let text = metrics().encode(Format::Classic).unwrap();
    let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    kms_connection_probes_total{source="cluster_node"} 0
    kms_connection_probes_total{source="external"} 0
    kms_connection_probes_total{source="internal_pod"} 0
    kms_connections_dropped_total{source="cluster_node"} 0
    kms_connections_dropped_total{source="external"} 0
    kms_connections_dropped_total{source="internal_pod"} 0
    kms_notifier_attributions_total{attribution="ambiguous"} 0
    kms_notifier_attributions_total{attribution="exact"} 0
    kms_notifier_attributions_total{attribution="inferred"} 0
    kms_notifier_attributions_total{attribution="unknown"} 0
    kms_notifier_build_info{version="1.2.3",revision="abc\"def"} 1
    kms_notifier_bytes_total{log="kms"} 0
    kms_notifier_bytes_total{log="stdin"} 0
    kms_notifier_dead_letters 0
    kms_notifier_dedup_claims_total{outcome="alone"} 0
    kms_notifier_dedup_claims_total{outcome="granted"} 0
    kms_notifier_dedup_claims_total{outcome="repeat"} 0
    kms_notifier_dedup_store_failures_total 0
    kms_notifier_evictions_total{what="alert"} 0
    kms_notifier_evictions_total{what="block"} 0
    kms_notifier_evictions_total{what="connection"} 0
    kms_notifier_evictions_total{what="cut_line"} 0
    kms_notifier_evictions_total{what="dead_letter"} 0
    kms_notifier_evictions_total{what="dedup_key"} 0
    kms_notifier_evictions_total{what="final_claim"} 0
    kms_notifier_evictions_total{what="known_event"} 0
    kms_notifier_evictions_total{what="message"} 0
    kms_notifier_evictions_total{what="stored_request"} 0
    kms_notifier_evictions_total{what="waiting_event"} 0
    kms_notifier_lag_bytes{log="kms"} 0
    kms_notifier_lag_bytes{log="stdin"} 0
    kms_notifier_lines_total{log="kms",class="accepted"} 0
    kms_notifier_lines_total{log="kms",class="unrecognised"} 0
    kms_notifier_lines_total{log="stdin",class="accepted"} 0
    kms_notifier_lines_total{log="stdin",class="unrecognised"} 0
    kms_notifier_log_gaps_total{log="kms"} 0
    kms_notifier_log_gaps_total{log="stdin"} 0
    kms_notifier_log_lost_bytes_total{log="kms"} 0
    kms_notifier_log_lost_bytes_total{log="stdin"} 0
    kms_notifier_log_rotations_total{log="kms",kind="rename"} 0
    kms_notifier_log_rotations_total{log="kms",kind="truncate"} 0
    kms_notifier_log_rotations_total{log="stdin",kind="rename"} 0
    kms_notifier_log_rotations_total{log="stdin",kind="truncate"} 0
    kms_notifier_log_silent{log="kms"} 0
    kms_notifier_log_silent{log="stdin"} 0
    kms_notifier_notification_seconds_bucket{le="+Inf"} 0
    kms_notifier_notification_seconds_bucket{le="0.05"} 0
    kms_notifier_notification_seconds_bucket{le="0.1"} 0
    kms_notifier_notification_seconds_bucket{le="0.25"} 0
    kms_notifier_notification_seconds_bucket{le="0.5"} 0
    kms_notifier_notification_seconds_bucket{le="1.0"} 0
    kms_notifier_notification_seconds_bucket{le="10.0"} 0
    kms_notifier_notification_seconds_bucket{le="2.5"} 0
    kms_notifier_notification_seconds_bucket{le="30.0"} 0
    kms_notifier_notification_seconds_bucket{le="5.0"} 0
    kms_notifier_notification_seconds_bucket{le="60.0"} 0
    kms_notifier_notification_seconds_count 0
    kms_notifier_notification_seconds_sum 0.0
    kms_notifier_notifications_total{sink="log",outcome="accepted"} 0
    kms_notifier_notifications_total{sink="log",outcome="failed"} 0
    kms_notifier_notifications_total{sink="log",outcome="retried"} 0
    kms_notifier_notifications_total{sink="slack",outcome="accepted"} 0
    kms_notifier_notifications_total{sink="slack",outcome="failed"} 0
    kms_notifier_notifications_total{sink="slack",outcome="retried"} 0
    kms_notifier_outbox_messages 0
    kms_notifier_state_save_seconds_bucket{le="+Inf"} 0
    kms_notifier_state_save_seconds_bucket{le="0.001"} 0
    kms_notifier_state_save_seconds_bucket{le="0.0025"} 0
    kms_notifier_state_save_seconds_bucket{le="0.005"} 0
    kms_notifier_state_save_seconds_bucket{le="0.01"} 0
    kms_notifier_state_save_seconds_bucket{le="0.025"} 0
    kms_notifier_state_save_seconds_bucket{le="0.1"} 0
    kms_notifier_state_save_seconds_bucket{le="0.5"} 0
    kms_notifier_state_save_seconds_bucket{le="2.5"} 0
    kms_notifier_state_save_seconds_count 0
    kms_notifier_state_save_seconds_sum 0.0
    kms_notifier_state_saves_total{outcome="failed"} 0
    kms_notifier_state_saves_total{outcome="saved"} 0
    kms_notifier_state_set_aside_total 0
    kms_notifier_state_size_bytes 0
    kms_notifier_suspect_lines_total{log="kms"} 0
    kms_notifier_suspect_lines_total{log="stdin"} 0
    kms_slack_notifier_up 1
    "#);
}

#[test]
fn events_are_counted_by_what_they_are() {
    let metrics = metrics();
    observe(
        &metrics,
        &activation(Some("Windows 10 Pro"), Some("OOB grace")),
    );
    observe(
        &metrics,
        &Event {
            dedup: Some(Dedup::Repeat),
            ..activation(Some("Windows 10 Pro"), Some("OOB grace"))
        },
    );
    observe(
        &metrics,
        &Event {
            dedup: Some(Dedup::Pending),
            attribution: Some(Attribution::Ambiguous),
            ..activation(Some("\"} 1\nkms_fake 1"), None)
        },
    );
    observe(&metrics, &activation(None, None));
    for hresult in [Some(0xC004_F042), Some(0xDEAD_BEEF), None] {
        observe(
            &metrics,
            &Event {
                hresult,
                ..event(Kind::Refused)
            },
        );
    }
    observe(
        &metrics,
        &Event {
            source: Some("external".into()),
            ..event(Kind::Probe)
        },
    );
    observe(&metrics, &event(Kind::Probe));
    observe(
        &metrics,
        &Event {
            source: Some("internal_pod".into()),
            ..event(Kind::Dropped)
        },
    );
    for kind in [Kind::Aborted, Kind::ServerStarted, Kind::ServerStopped] {
        observe(&metrics, &event(kind));
    }
    insta::assert_snapshot!(samples(&metrics), @r#"
    kms_activations_dedup_skipped_total{product="Windows 10 Pro"} 1
    kms_activations_total{product="Windows 10 Pro",status="OOB grace"} 2
    kms_activations_total{product="protected",status="unknown"} 1
    kms_activations_total{product="unknown",status="unknown"} 1
    kms_connection_probes_total{source="external"} 1
    kms_connection_probes_total{source="unknown"} 1
    kms_connections_dropped_total{source="internal_pod"} 1
    kms_last_activation_timestamp_seconds 1700000000.5
    kms_notifier_attributions_total{attribution="ambiguous"} 1
    kms_notifier_attributions_total{attribution="exact"} 3
    kms_notifier_build_info{version="1.2.3",revision="abc\"def"} 1
    kms_notifier_notification_seconds_sum 0.0
    kms_notifier_state_save_seconds_sum 0.0
    kms_refusals_total{product="protected",hresult="0xC004F042"} 1
    kms_refusals_total{product="protected",hresult="other"} 1
    kms_refusals_total{product="protected",hresult="unknown"} 1
    kms_slack_notifier_up 1
    "#);
}

/// An older log that is caught up with tells of what was before.
#[test]
fn the_last_activation_is_the_latest() {
    let metrics = metrics();
    let at = |second| Event {
        time: Some(EventTime::utc(Timestamp::from_second(second).unwrap())),
        ..activation(None, None)
    };
    let last = || {
        let text = samples(&metrics);
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with("kms_last_activation_timestamp_seconds "));
        line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok())
    };
    let _products = metrics.observe(&[at(1_700_000_900), at(1_700_000_100)]);
    assert_eq!(last(), Some(1_700_000_900.0), "within a batch");
    observe(&metrics, &at(1_700_000_200));
    assert_eq!(last(), Some(1_700_000_900.0), "from batch to batch");
    observe(&metrics, &at(1_700_001_000));
    assert_eq!(last(), Some(1_700_001_000.0));
}

#[test]
fn a_suspect_event_counts_nowhere() {
    let metrics = metrics();
    let before = samples(&metrics);
    for kind in [Kind::Activation, Kind::Refused, Kind::Dropped, Kind::Probe] {
        observe(
            &metrics,
            &Event {
                kind,
                suspect: true,
                dedup: Some(Dedup::Repeat),
                ..activation(Some("Windows 10 Pro"), Some("Licensed"))
            },
        );
    }
    assert_eq!(samples(&metrics), before);
    metrics.log(&"kms".into()).suspect_lines(3);
    assert_eq!(
        samples(&metrics)
            .lines()
            .find(|line| line.contains("suspect")),
        Some("kms_notifier_suspect_lines_total{log=\"kms\"} 3")
    );
}

/// Sets every metric to something.
fn busy() -> Metrics {
    let metrics = metrics();
    observe(
        &metrics,
        &activation(Some("Windows 10 Pro"), Some("Licensed")),
    );
    observe(
        &metrics,
        &Event {
            dedup: Some(Dedup::Repeat),
            ..activation(Some("Windows 10 Pro"), Some("Notification"))
        },
    );
    observe(
        &metrics,
        &Event {
            hresult: Some(0x8007_000D),
            ..event(Kind::Refused)
        },
    );
    observe(
        &metrics,
        &Event {
            source: Some("external".into()),
            ..event(Kind::Probe)
        },
    );
    observe(
        &metrics,
        &Event {
            source: Some("external".into()),
            ..event(Kind::Dropped)
        },
    );
    metrics.evicted(Evicted::DedupKey, 2);
    metrics.notification(Sink::Slack, Outcome::Retried);
    metrics.notification(Sink::Slack, Outcome::Accepted);
    metrics.notification_took(Duration::from_millis(70));
    metrics.notification_took(Duration::from_secs(90));
    metrics.outbox(4);
    let log = metrics.log(&"kms".into());
    log.lines("accepted", 5);
    log.bytes(600);
    log.set_lag(7);
    log.last_line(Timestamp::constant(1_700_000_001, 0));
    log.suspect_lines(8);
    log.rotation(Rotation::Truncate);
    metrics
}

#[test]
fn the_whole_classic_text() {
    let text = busy().encode(Format::Classic).unwrap();
    // Series of one family come in any order; families keep theirs.
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        if line.starts_with("# HELP") {
            blocks.push(Vec::new());
        }
        blocks.last_mut().unwrap().push(line);
    }
    for block in &mut blocks {
        if !block.iter().any(|line| line.ends_with("histogram")) {
            block[2..].sort_unstable();
        }
        block.retain(|line| line.starts_with('#') || !line.ends_with(" 0"));
    }
    insta::assert_snapshot!(blocks.concat().join("\n"), @r#"
    # HELP kms_activations_total Answered activations.
    # TYPE kms_activations_total counter
    kms_activations_total{product="Windows 10 Pro",status="Licensed"} 1
    kms_activations_total{product="Windows 10 Pro",status="Notification"} 1
    # HELP kms_activations_dedup_skipped_total Activations not posted because their key was told within the window.
    # TYPE kms_activations_dedup_skipped_total counter
    kms_activations_dedup_skipped_total{product="Windows 10 Pro"} 1
    # HELP kms_refusals_total Refused requests.
    # TYPE kms_refusals_total counter
    kms_refusals_total{product="protected",hresult="0x8007000D"} 1
    # HELP kms_connection_probes_total Connections that opened and closed and asked nothing.
    # TYPE kms_connection_probes_total counter
    kms_connection_probes_total{source="external"} 1
    # HELP kms_connections_dropped_total Connections from public addresses, turned away by the server.
    # TYPE kms_connections_dropped_total counter
    kms_connections_dropped_total{source="external"} 1
    # HELP kms_last_activation_timestamp_seconds When the last activation happened.
    # TYPE kms_last_activation_timestamp_seconds gauge
    kms_last_activation_timestamp_seconds 1700000000.5
    # HELP kms_notifier_attributions_total Requests by how sure it is who asked.
    # TYPE kms_notifier_attributions_total counter
    kms_notifier_attributions_total{attribution="exact"} 2
    # HELP kms_notifier_evictions_total What a bound cut or pushed out before its time.
    # TYPE kms_notifier_evictions_total counter
    kms_notifier_evictions_total{what="dedup_key"} 2
    # HELP kms_notifier_notifications_total Attempts to deliver a message by their outcome.
    # TYPE kms_notifier_notifications_total counter
    kms_notifier_notifications_total{sink="slack",outcome="accepted"} 1
    kms_notifier_notifications_total{sink="slack",outcome="retried"} 1
    # HELP kms_notifier_outbox_messages Messages not yet delivered.
    # TYPE kms_notifier_outbox_messages gauge
    kms_notifier_outbox_messages 4
    # HELP kms_notifier_notification_seconds Duration of one attempt to deliver a message.
    # TYPE kms_notifier_notification_seconds histogram
    kms_notifier_notification_seconds_sum 90.07
    kms_notifier_notification_seconds_count 2
    kms_notifier_notification_seconds_bucket{le="0.1"} 1
    kms_notifier_notification_seconds_bucket{le="0.25"} 1
    kms_notifier_notification_seconds_bucket{le="0.5"} 1
    kms_notifier_notification_seconds_bucket{le="1.0"} 1
    kms_notifier_notification_seconds_bucket{le="2.5"} 1
    kms_notifier_notification_seconds_bucket{le="5.0"} 1
    kms_notifier_notification_seconds_bucket{le="10.0"} 1
    kms_notifier_notification_seconds_bucket{le="30.0"} 1
    kms_notifier_notification_seconds_bucket{le="60.0"} 1
    kms_notifier_notification_seconds_bucket{le="+Inf"} 2
    # HELP kms_notifier_dead_letters Messages refused for good and kept.
    # TYPE kms_notifier_dead_letters gauge
    # HELP kms_notifier_state_saves_total Saves of the state by their outcome.
    # TYPE kms_notifier_state_saves_total counter
    # HELP kms_notifier_state_save_seconds Duration of one save of the state, to the disk.
    # TYPE kms_notifier_state_save_seconds histogram
    kms_notifier_state_save_seconds_sum 0.0
    # HELP kms_notifier_state_size_bytes Size of the state's file.
    # TYPE kms_notifier_state_size_bytes gauge
    # HELP kms_notifier_state_set_aside_total States that were unreadable and were set aside.
    # TYPE kms_notifier_state_set_aside_total counter
    # HELP kms_notifier_dedup_claims_total Messages by what the shared dedup store said of them.
    # TYPE kms_notifier_dedup_claims_total counter
    # HELP kms_notifier_dedup_store_failures_total Calls to the shared dedup store that failed.
    # TYPE kms_notifier_dedup_store_failures_total counter
    # HELP kms_notifier_lines_total Log lines by what they were.
    # TYPE kms_notifier_lines_total counter
    kms_notifier_lines_total{log="kms",class="accepted"} 5
    # HELP kms_notifier_bytes_total Bytes of log read.
    # TYPE kms_notifier_bytes_total counter
    kms_notifier_bytes_total{log="kms"} 600
    # HELP kms_notifier_lag_bytes Bytes of log written and not yet read.
    # TYPE kms_notifier_lag_bytes gauge
    kms_notifier_lag_bytes{log="kms"} 7
    # HELP kms_notifier_last_line_timestamp_seconds When the last log line was read.
    # TYPE kms_notifier_last_line_timestamp_seconds gauge
    kms_notifier_last_line_timestamp_seconds{log="kms"} 1700000001.0
    # HELP kms_notifier_suspect_lines_total Log lines that a client may have forged.
    # TYPE kms_notifier_suspect_lines_total counter
    kms_notifier_suspect_lines_total{log="kms"} 8
    # HELP kms_notifier_log_rotations_total Rotations of the log noticed.
    # TYPE kms_notifier_log_rotations_total counter
    kms_notifier_log_rotations_total{log="kms",kind="truncate"} 1
    # HELP kms_notifier_log_gaps_total Places where lines may be missing that were written while nobody read.
    # TYPE kms_notifier_log_gaps_total counter
    # HELP kms_notifier_log_lost_bytes_total Bytes that were there and never became a line.
    # TYPE kms_notifier_log_lost_bytes_total counter
    # HELP kms_notifier_log_silent 1 while no line comes for as long as is configured.
    # TYPE kms_notifier_log_silent gauge
    # HELP kms_slack_notifier_up 1 while it runs.
    # TYPE kms_slack_notifier_up gauge
    kms_slack_notifier_up 1
    # HELP kms_notifier_build_info What is running.
    # TYPE kms_notifier_build_info gauge
    kms_notifier_build_info{version="1.2.3",revision="abc\"def"} 1
    "#);
}

/// A strict reading of the OpenMetrics text: what the specification demands of
/// the parts that this program uses.
#[test]
fn the_open_metrics_text_keeps_the_rules() {
    let text = busy().encode(Format::OpenMetrics).unwrap();
    assert!(text.ends_with("\n# EOF\n"));
    assert_eq!(text.matches("# EOF").count(), 1);

    let mut families = BTreeMap::new();
    let mut current = ("", "");
    let mut seen = BTreeSet::new();
    for line in text.lines().take_while(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next()) {
            (Some("#"), Some("HELP")) => {
                let name = words.next().unwrap();
                assert!(families.insert(name, "").is_none(), "{name} comes twice");
                assert!(words.next().unwrap().ends_with('.'), "{line}");
                current = (name, "");
            }
            (Some("#"), Some("TYPE")) => {
                assert_eq!(words.next(), Some(current.0));
                current.1 = words.next().unwrap();
                families.insert(current.0, current.1);
            }
            (Some("#"), Some("UNIT")) => {
                assert_eq!(words.next(), Some(current.0));
                let unit = words.next().unwrap();
                assert!(current.0.ends_with(&format!("_{unit}")), "{line}");
            }
            _ => {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let suffix = name.strip_prefix(current.0).unwrap();
                let allowed: &[&str] = match current.1 {
                    "counter" => &["_total"],
                    "info" => &["_info"],
                    "gauge" => &[""],
                    "histogram" => &["_sum", "_count", "_bucket"],
                    other => panic!("{other}"),
                };
                assert!(allowed.contains(&suffix), "{line}");
                assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
                assert!(!series.contains("{}"), "{line}");
                assert!(seen.insert(series), "{series} comes twice");
            }
        }
    }
    for name in [
        "kms_notifier_bytes",
        "kms_last_activation_timestamp_seconds",
    ] {
        assert!(families.contains_key(name), "{name}");
    }
    assert_eq!(families["kms_notifier_build"], "info");
}

#[test]
fn promtool_finds_nothing_to_say() {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: promtool is not installed (Debian package `prometheus`)");
            return;
        }
        Err(error) => panic!("promtool: {error}"),
    };
    let text = busy().encode(Format::Classic).unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
