//! What Prometheus gets: both formats, every promised metric, the right numbers,
//! and nothing that a client wrote.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what is not there fails the test, as it should"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use e2e::score::Action;
use e2e::{
    Exposition, LogWriter, Recording, Sidecar, Visit, notifier, recordings, replay, server_started,
};
use serde_json::Value;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Follows these recordings from their start, each under its file's name.
fn follow(recordings: &[Recording]) -> Sidecar {
    let mut command = notifier();
    command.args(["run", "--from", "start"]);
    for recording in recordings {
        command.arg("--log").arg(&recording.path);
    }
    Sidecar::spawn(&mut command)
}

fn scrape(sidecar: &Sidecar) -> Exposition {
    Exposition::classic(&sidecar.metrics())
}

/// Names and types as docs/metrics.md promises them, in the classic format.
const PROMISED: [(&str, &str); 29] = [
    ("kms_activations_dedup_skipped_total", "counter"),
    ("kms_activations_total", "counter"),
    ("kms_connection_probes_total", "counter"),
    ("kms_connections_dropped_total", "counter"),
    ("kms_last_activation_timestamp_seconds", "gauge"),
    ("kms_notifier_attributions_total", "counter"),
    ("kms_notifier_build_info", "gauge"),
    ("kms_notifier_bytes_total", "counter"),
    ("kms_notifier_dead_letters", "gauge"),
    ("kms_notifier_dedup_claims_total", "counter"),
    ("kms_notifier_dedup_store_failures_total", "counter"),
    ("kms_notifier_evictions_total", "counter"),
    ("kms_notifier_lag_bytes", "gauge"),
    ("kms_notifier_last_line_timestamp_seconds", "gauge"),
    ("kms_notifier_lines_total", "counter"),
    ("kms_notifier_log_gaps_total", "counter"),
    ("kms_notifier_log_lost_bytes_total", "counter"),
    ("kms_notifier_log_rotations_total", "counter"),
    ("kms_notifier_log_silent", "gauge"),
    ("kms_notifier_notification_seconds", "histogram"),
    ("kms_notifier_notifications_total", "counter"),
    ("kms_notifier_outbox_messages", "gauge"),
    ("kms_notifier_state_save_seconds", "histogram"),
    ("kms_notifier_state_saves_total", "counter"),
    ("kms_notifier_state_set_aside_total", "counter"),
    ("kms_notifier_state_size_bytes", "gauge"),
    ("kms_notifier_suspect_lines_total", "counter"),
    ("kms_refusals_total", "counter"),
    ("kms_slack_notifier_up", "gauge"),
];

#[test]
fn what_can_be_known_is_there_from_the_start_at_zero() {
    let sidecar = follow(&[Recording::named("does-not-exist")]);
    let metrics = scrape(&sidecar);
    let zero = |name: &str, labels: &[(&str, &str)]| {
        assert_eq!(metrics.sum(name, labels), Some(0.0), "{name} {labels:?}");
    };
    for source in ["internal_pod", "cluster_node", "external"] {
        zero("kms_connection_probes_total", &[("source", source)]);
        zero("kms_connections_dropped_total", &[("source", source)]);
    }
    for attribution in ["exact", "inferred", "ambiguous", "unknown"] {
        zero(
            "kms_notifier_attributions_total",
            &[("attribution", attribution)],
        );
    }
    for sink in ["slack", "log"] {
        for outcome in ["accepted", "retried", "failed"] {
            let labels = [("sink", sink), ("outcome", outcome)];
            zero("kms_notifier_notifications_total", &labels);
        }
    }
    let log = ("log", "does-not-exist.log");
    for class in [
        "connection",
        "request",
        "response",
        "refusal",
        "lifecycle",
        "unrecognised",
    ] {
        zero("kms_notifier_lines_total", &[log, ("class", class)]);
    }
    for kind in ["rename", "truncate"] {
        zero("kms_notifier_log_rotations_total", &[log, ("kind", kind)]);
    }
    for name in ["bytes_total", "lag_bytes", "suspect_lines_total"] {
        zero(&format!("kms_notifier_{name}"), &[log]);
    }
    zero("kms_notifier_outbox_messages", &[]);
    zero("kms_notifier_notification_seconds_count", &[]);
    assert_eq!(metrics.sum("kms_slack_notifier_up", &[]), Some(1.0));
    assert_eq!(metrics.sum("kms_notifier_build_info", &[]), Some(1.0));
    // A time that never was is not 1970.
    for late in ["kms_last_activation", "kms_notifier_last_line"] {
        assert_eq!(metrics.sum(&format!("{late}_timestamp_seconds"), &[]), None);
    }
}

#[test]
fn every_promised_metric_comes_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(dir.path().join("log"));
    let mut command = notifier();
    let sidecar = Sidecar::spawn(
        command
            .args(["run", "--from", "start", "--log"])
            .arg(log.path()),
    );
    let visit = Visit::from("10.10.0.1");
    log.bytes(server_started() + &visit.activation());
    let told = "kms_notifier_notifications_total{sink=\"log\",outcome=\"accepted\"}";
    sidecar.wait_for_sample(told, |n| n == 1.0);
    log.bytes(visit.activation() + &visit.refusal());
    let _ = sidecar.wait_for_lines(4);
    let types = scrape(&sidecar).types;
    let types: Vec<_> = types
        .iter()
        .map(|(name, kind)| (&**name, &**kind))
        .collect();
    assert_eq!(types, PROMISED);
}

/// All recordings at once, each its own log: the counters are those of the
/// events, and no text of a client is in any of them.
#[test]
fn the_numbers_are_those_of_the_events() {
    let recordings = recordings();
    let sidecar = follow(&recordings);
    let mut events = Vec::new();
    for recording in &recordings {
        events.extend(replay(&[], &[&recording.path]));
    }
    // What waits for more lines is decided when none came for a while.
    assert_eq!(sidecar.wait_for_lines(events.len()).len(), events.len());
    // Lines and bytes are counted when the events of a batch are printed.
    for recording in &recordings {
        #[expect(clippy::cast_precision_loss, reason = "files of a megabyte at most")]
        let size = recording.bytes().len() as f64;
        let series = |name| format!("kms_notifier_{name}{{log=\"{}.log\"}}", recording.name);
        sidecar.wait_for_sample(&series("bytes_total"), |bytes| bytes == size);
        sidecar.wait_for_sample(&series("lag_bytes"), |bytes| bytes == 0.0);
    }
    let metrics = scrape(&sidecar);
    events.retain(|event| event["suspect"] != true);

    let count = |is: &dyn Fn(&Value) -> bool| -> f64 {
        u32::try_from(events.iter().filter(|event| is(event)).count())
            .unwrap()
            .into()
    };
    let kind = |kind: &'static str| move |event: &Value| event["kind"] == kind;
    for (name, is) in [
        ("kms_activations_total", kind("activation")),
        ("kms_refusals_total", kind("refused")),
        ("kms_connection_probes_total", kind("probe")),
        ("kms_connections_dropped_total", kind("dropped")),
    ] {
        assert_eq!(metrics.sum(name, &[]), Some(count(&is)), "{name}");
    }
    for source in ["internal_pod", "cluster_node", "external"] {
        let probes = count(&|event| event["kind"] == "probe" && event["source"] == source);
        let labels = [("source", source)];
        assert_eq!(
            metrics.sum("kms_connection_probes_total", &labels),
            Some(probes)
        );
    }
    for attribution in ["exact", "inferred", "ambiguous", "unknown"] {
        let requests = count(&|event| event["attribution"] == attribution);
        let labels = [("attribution", attribution)];
        assert_eq!(
            metrics.sum("kms_notifier_attributions_total", &labels),
            Some(requests)
        );
    }
    let product = "Windows 10 Professional";
    for status in ["OOB grace", "Licensed"] {
        let activations = count(&|event| {
            event["kind"] == "activation"
                && event["product"] == product
                && event["status"] == status
        });
        assert!(activations > 0.0);
        let labels = [("product", product), ("status", status)];
        let sum = metrics.sum("kms_activations_total", &labels);
        assert_eq!(sum, Some(activations), "{status}");
    }
    let hresult = [("hresult", "0xC004F042")];
    let refused = count(&|event| event["hresult"] == "0xC004F042");
    assert_eq!(metrics.sum("kms_refusals_total", &hresult), Some(refused));

    for recording in &recordings {
        let log = format!("{}.log", recording.name);
        let sum = |name: &str| metrics.sum(name, &[("log", &log)]).unwrap();
        assert!(
            sum("kms_notifier_last_line_timestamp_seconds") > 1.7e9,
            "{log}"
        );
        // Of a line in parts, the first counts and the others are none.
        if !log.starts_with("cri-") {
            let lines = recording.bytes().split(|byte| *byte == b'\n').count() - 1;
            let lines = f64::from(u32::try_from(lines).unwrap());
            assert_eq!(sum("kms_notifier_lines_total"), lines, "{log}");
        }
    }
    assert_no_client_text(&metrics, &recordings);
}

/// Labels come from closed tables: products from the catalogue, everything else
/// from the program or its configuration.
fn assert_no_client_text(metrics: &Exposition, recordings: &[Recording]) {
    let mut products = BTreeSet::from(["unknown".to_owned(), "protected".to_owned()]);
    let mut texts = BTreeSet::new();
    for recording in recordings {
        for line in recording.truth().lines() {
            let action: Action = serde_json::from_str(line).unwrap();
            products.extend(action.product);
            texts.insert(action.ip);
            // A name of one or two letters is in every word.
            texts.extend(action.workstation.filter(|name| name.len() > 3));
        }
    }
    let allowed = [
        "attribution",
        "class",
        "hresult",
        "kind",
        "le",
        "log",
        "outcome",
        "product",
        "revision",
        "sink",
        "source",
        "status",
        "version",
        "what",
    ];
    let mut seen = BTreeMap::<&str, BTreeSet<&str>>::new();
    for sample in &metrics.samples {
        for (label, value) in &sample.labels {
            assert!(allowed.contains(&label.as_str()), "{sample:?}");
            seen.entry(label).or_default().insert(value);
            assert!(!texts.contains(value.as_str()), "{sample:?}");
            assert!(value.parse::<std::net::IpAddr>().is_err(), "{sample:?}");
        }
    }
    let unknown: Vec<_> = seen["product"]
        .iter()
        .filter(|product| !products.contains(**product))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(
        seen["source"],
        BTreeSet::from(["cluster_node", "external", "internal_pod"])
    );
}

#[test]
fn the_last_activation_is_when_the_log_says() {
    let recording = Recording::named("svn1113-fork-sequential");
    let events = replay(&[], &[&recording.path]);
    let last = events
        .iter()
        .rfind(|event| event["kind"] == "activation")
        .unwrap();
    assert_eq!(
        last["time"], "2026-11-20T21:19:06+00:00",
        "the test's own number is of this"
    );
    let sidecar = follow(&[recording]);
    let _ = sidecar.wait_for_lines(events.len());
    sidecar.wait_for_sample("kms_last_activation_timestamp_seconds", |at| {
        at == 1_795_209_546.0
    });
}

#[test]
fn both_formats_say_the_same() {
    let recording = Recording::named("svn1113-refused");
    let events = replay(&[], &[&recording.path]).len();
    let sidecar = follow(&[recording]);
    let _ = sidecar.wait_for_lines(events);
    let (status, text) = sidecar.get("/metrics", OPEN_METRICS);
    assert_eq!(status, 200);
    let open = Exposition::open_metrics(&text);
    let classic = scrape(&sidecar);
    // Series may come in any order, and the outbox goes on meanwhile.
    let series = |exposition: &Exposition| -> BTreeSet<String> {
        let samples = exposition.samples.iter();
        samples
            .map(|sample| format!("{} {:?}", sample.name, sample.labels))
            .collect()
    };
    assert_eq!(series(&open), series(&classic));
    assert_eq!(open.types["kms_refusals"], "counter");
    assert_eq!(open.types["kms_notifier_build"], "info");
    let refusals = |exposition: &Exposition| exposition.sum("kms_refusals_total", &[]);
    assert_eq!(refusals(&open), refusals(&classic));
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    if Command::new("promtool").arg("--version").output().is_err() {
        println!("skipped: promtool is not here (package prometheus)");
        return;
    }
    let sidecar = follow(&["svn1113-refused", "svn1113-public-o2"].map(Recording::named));
    let _ = sidecar.wait_for_line(|line| line.contains("refused"));
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(sidecar.metrics().as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn health_is_told_and_nothing_else_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("log");
    let mut command = notifier();
    let sidecar = Sidecar::spawn(command.args(["run", "--log"]).arg(&missing));
    assert_eq!(sidecar.get("/healthz", "*/*"), (200, "ok\n".to_owned()));
    let (status, why) = sidecar.get("/readyz", "*/*");
    assert_eq!(status, 503);
    assert_eq!(why, "not ready: log log waiting for the file to appear\n");
    for path in ["/x", "/metrics/", "/healthz/x"] {
        assert_eq!(sidecar.get(path, "*/*").0, 404, "{path}");
    }
    std::fs::write(&missing, "").unwrap();
    sidecar.wait_for_status("/readyz", 200);
}

#[test]
fn suspect_lines_are_counted_and_nothing_else_of_them() {
    let recording = Recording::named("svn1113-hostile");
    let events = replay(&[], &[&recording.path]);
    let sidecar = follow(std::slice::from_ref(&recording));
    let _ = sidecar.wait_for_lines(events.len());
    let suspect = "kms_notifier_suspect_lines_total{log=\"svn1113-hostile.log\"}";
    sidecar.wait_for_sample(suspect, |lines| lines > 0.0);
    assert_eq!(
        scrape(&sidecar).sum("kms_activations_total", &[]),
        Some(28.0)
    );
}
