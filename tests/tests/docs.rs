//! The documentation and the binary agree: every metric it exports and every
//! option its help lists is described, and nothing else is.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its input has nothing to say"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::{FakeSlack, Recording, Sidecar, core, notifier};

fn page(name: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    fs::read_to_string(docs.join(name)).unwrap()
}

/// The rows of a page's tables that begin with a name in code, by that name.
fn rows(page: &str, begins: &str) -> BTreeMap<String, String> {
    let row = |line: &str| {
        let name = line.strip_prefix("| `")?.split_once('`')?.0;
        let row = (name.to_owned(), line.to_owned());
        name.starts_with(begins).then_some(row)
    };
    page.lines().filter_map(row).collect()
}

/// Each metric with its labels, as the documentation writes them:
/// `kms_refusals_total{product,hresult}`.
fn exported(metrics: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for name in metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
    {
        let sample = metrics.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{']).then_some(rest)
        });
        // A histogram's samples have names of their own; it has no labels here.
        let labels: Vec<&str> = sample
            .and_then(|sample| sample.strip_prefix('{')?.split_once("} "))
            .map(|(labels, _)| {
                labels
                    .split("\",")
                    .map(|label| label.split('=').next().unwrap())
            })
            .into_iter()
            .flatten()
            .collect();
        names.insert(match labels.as_slice() {
            [] => name.to_owned(),
            labels => format!("{name}{{{}}}", labels.join(",")),
        });
    }
    names
}

#[test]
fn every_metric_is_described_with_its_labels() {
    // Activations, refusals and, the second time, repeats: then all are there.
    let log = Recording::named("svn1113-refused").bytes();
    let dir = tempfile::tempdir().unwrap();
    let slack = FakeSlack::start([]);
    let mut sidecar = Sidecar::spawn(
        notifier()
            .args(["run", "--log", "-", "--state"])
            .arg(dir.path().join("state"))
            // A store that is away has metrics, too.
            .args(["--dedup-store", "redis://127.0.0.1:1"])
            .env("SLACK_WEBHOOK_URL", slack.url())
            .stdin(Stdio::piped()),
    );
    sidecar.wait_for_sample("kms_notifier_dedup_store_up", |up| up == 0.0);
    let mut stdin = sidecar.stdin().unwrap();
    stdin.write_all(&log).unwrap();
    sidecar.wait_for_sample(
        r#"kms_notifier_notifications_total{sink="slack",outcome="accepted"}"#,
        |accepted| accepted > 0.0,
    );
    stdin.write_all(&log).unwrap();
    sidecar.wait_for_line(|line| line.contains(r#""dedup":"repeat""#));
    let metrics = sidecar.metrics();

    let described: BTreeSet<String> = rows(&page("metrics.md"), "kms_").into_keys().collect();
    assert_eq!(exported(&metrics), described, "{metrics}");
}

/// The options of a command's help: the name, and the default that it states.
fn options(mut program: Command, command: &str) -> BTreeMap<String, Option<String>> {
    let output = program
        .args([command, "--help"])
        // One line for each option.
        .env("COLUMNS", "1000")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let option = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("-h, ").unwrap_or(line);
        let end = line.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        let (name, rest) = line.split_at(end.unwrap_or(line.len()));
        let default = rest
            .split_once("[default: ")
            // The value of an address has brackets of its own.
            .and_then(|(_, default)| default.split(']').next().map(|d| d.to_owned()));
        (name.starts_with("--") && name != "--help").then(|| (name.to_owned(), default))
    };
    let options: BTreeMap<_, _> = help.lines().filter_map(option).collect();
    assert!(options.len() > 5, "{help}");
    options
}

#[test]
fn every_option_is_described_with_its_variable_and_default() {
    let rows = rows(&page("configuration.md"), "--");
    let mut known = BTreeSet::new();
    for command in [
        "run",
        "check-config",
        "test-notify",
        "dead-letters",
        "replay",
        "explain",
    ] {
        for (name, default) in options(notifier(), command) {
            let row = rows
                .get(&name)
                .unwrap_or_else(|| panic!("{name} of {command} is not in docs/configuration.md"));
            if let Some(default) = default {
                assert!(
                    row.contains(&default),
                    "{name}: its default {default} is not in {row}"
                );
            }
            let variable = name.trim_start_matches('-').replace('-', "_");
            let variable = format!("`KMS_NOTIFIER_{}`", variable.to_uppercase());
            // What only one command or the command line has is no setting.
            let is_setting = !matches!(&*name, "--joined" | "--format" | "--state-reset" | "--all");
            assert!(
                row.contains(&variable) || !is_setting,
                "{variable} is not in {row}"
            );
            known.insert(name);
        }
    }
    let described: BTreeSet<String> = rows.into_keys().collect();
    assert_eq!(known, described);
}

#[test]
fn every_option_of_the_lab_host_is_described_with_its_default() {
    let rows = rows(&page("kms-core.md"), "--");
    let known = options(core(), "serve");
    for (name, default) in &known {
        let row = rows
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in docs/kms-core.md"));
        let default = default.as_deref().unwrap_or_default();
        assert!(row.contains(default), "{name}: {default} is not in {row}");
    }
    assert!(rows.keys().eq(known.keys()), "{rows:?}");
}

#[test]
fn every_metric_of_the_lab_host_is_described_with_its_labels() {
    let server =
        Sidecar::spawn(core().args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]));
    let described: BTreeSet<String> = rows(&page("kms-core.md"), "kms_").into_keys().collect();
    assert_eq!(exported(&server.metrics()), described);
}
