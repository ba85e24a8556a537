//! What `deploy/` and the runbook say exists: every variable, flag, port and path
//! of the manifests and units in the programs, every metric of the alerts, the
//! dashboard and the runbook among those that are exported, every anchor in the
//! runbook. Schemas, and whether alerts fire, are `./check`'s business.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot read its input has nothing to say"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::{Exposition, Recording, Sidecar, notifier, notifier_binary};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The objects of a rendered overlay.
fn rendered(name: &str) -> Vec<Value> {
    let text = read(&format!("deploy/kubernetes/rendered/{name}.yaml"));
    serde_saphyr::from_multiple(&text).unwrap()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|o| o["kind"] == kind).collect()
}

/// The pod that an overlay makes.
fn pod(objects: &[Value]) -> &Value {
    let workload = objects
        .iter()
        .find(|o| o["kind"] == "StatefulSet" || o["kind"] == "Deployment");
    &workload.unwrap()["spec"]["template"]
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

fn containers(pod: &Value) -> Vec<&Value> {
    let spec = &pod["spec"];
    let all = list(&spec["initContainers"]).iter();
    all.chain(list(&spec["containers"])).collect()
}

/// A container's own variables.
fn environment(container: &Value) -> BTreeMap<String, String> {
    list(&container["env"])
        .iter()
        .map(|pair| (text(&pair["name"]).into(), text(&pair["value"]).into()))
        .collect()
}

/// One of this project's programs, as a container or a unit calls it.
struct Call {
    program: String,
    args: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl Call {
    /// `None` for somebody else's program.
    fn of_container(container: &Value) -> Option<Self> {
        let command = list(&container["command"]).first().map(text);
        let program = match command {
            Some(command) => command.strip_prefix('/')?.to_owned(),
            // What the image's entry point is.
            None => "kms-notifier".to_owned(),
        };
        program.starts_with("kms-").then(|| Self {
            program,
            args: list(&container["args"])
                .iter()
                .map(text)
                .map(String::from)
                .collect(),
            environment: environment(container),
        })
    }

    fn of_unit(unit: &str) -> Self {
        let value = |key: &str| {
            unit.lines()
                .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let start = value("ExecStart");
        let mut words = start[0].split(' ').map(str::to_owned);
        let program = words.next().unwrap();
        let environment = value("Environment");
        let pairs = environment.iter().map(|pair| pair.split_once('=').unwrap());
        Self {
            program: program.strip_prefix("/usr/local/bin/").unwrap().into(),
            args: words.collect(),
            environment: pairs.map(|(k, v)| (k.into(), v.into())).collect(),
        }
    }

    /// The help of what is called; its failure is one of the test.
    fn help(&self) -> String {
        let binary = e2e::binary(&self.program);
        let subcommand = self.args.first().filter(|arg| !arg.starts_with('-'));
        let output = Command::new(&binary)
            .args(subcommand)
            .arg("--help")
            .env_clear()
            .env("COLUMNS", "1000")
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        assert!(output.status.success(), "{}: {output:?}", self.program);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every flag and every variable is one that the program knows.
    fn check(&self) {
        let help = self.help();
        let knows = |flag: &str| {
            let mut words = help.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
            words.any(|word| word == flag)
        };
        for arg in self.args.iter().filter(|arg| arg.starts_with("--")) {
            let flag = arg.split('=').next().unwrap();
            assert!(knows(flag), "{} has no {flag}", self.program);
        }
        let prefix = format!("{}_", self.program.to_uppercase().replace('-', "_"));
        for name in self.environment.keys() {
            let key = name
                .strip_prefix(&prefix)
                .unwrap_or_else(|| panic!("{name} is no variable of {}", self.program));
            let flag = format!("--{}", key.to_lowercase().replace('_', "-"));
            assert!(knows(&flag), "{name}: {} has no {flag}", self.program);
        }
    }
}

const OVERLAYS: [&str; 3] = ["vlmcsd", "relay", "replicated"];

#[test]
fn manifests_and_units_name_variables_and_flags_that_exist() {
    let mut checked = BTreeSet::new();
    for name in ["vlmcsd", "relay", "replicated", "diag"] {
        let objects = rendered(name);
        for call in containers(pod(&objects))
            .into_iter()
            .filter_map(Call::of_container)
        {
            call.check();
            checked.insert(call.program);
        }
    }
    for entry in fs::read_dir(root().join("deploy/systemd")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "service")
        {
            Call::of_unit(&fs::read_to_string(path).unwrap()).check();
        }
    }
    assert_eq!(
        checked,
        BTreeSet::from(["kms-core", "kms-diag", "kms-notifier"].map(String::from))
    );
}

#[test]
fn the_notifiers_values_are_valid_and_its_paths_are_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    // Fit for a webhook, and for a password.
    fs::write(&secret, "https://hooks.example.com/services/EXAMPLE\n").unwrap();
    for overlay in OVERLAYS {
        let objects = rendered(overlay);
        let pod = pod(&objects);
        let all = containers(pod);
        let sidecar = all.iter().find(|c| c["name"] == "notifier").unwrap();
        let values = environment(sidecar);
        let mounts: Vec<_> = list(&sidecar["volumeMounts"])
            .iter()
            .map(|mount| text(&mount["mountPath"]))
            .collect();
        let mut files = 0;
        for (name, value) in &values {
            let path = value.split_once('=').map_or(&**value, |(_, path)| path);
            if path.starts_with('/') {
                let mounted = mounts
                    .iter()
                    .any(|mount| path.starts_with(&format!("{mount}/")));
                assert!(mounted, "{overlay}: {name}: {path} is in no volume");
                files += 1;
            }
        }
        assert!(files >= 3, "log, state, webhook");

        // The server writes where the notifier reads, in a volume that both mount.
        let log = values["KMS_NOTIFIER_LOG"].split_once('=').unwrap().1;
        let server = all.iter().find(|c| c["name"] == "kms").unwrap();
        let mut said: Vec<String> = list(&server["args"])
            .iter()
            .map(text)
            .map(String::from)
            .collect();
        said.extend(environment(server).into_values());
        assert!(said.iter().any(|word| word == log), "{overlay}: {said:?}");
        let volume = |container: &Value| {
            list(&container["volumeMounts"])
                .iter()
                .find(|mount| Path::new(log).starts_with(text(&mount["mountPath"])))
                .map(|mount| text(&mount["name"]).to_owned())
        };
        assert_eq!(volume(sidecar), volume(server));
        assert!(volume(server).is_some());

        let mut command = Command::new(notifier_binary());
        command.arg("check-config").env_clear().envs(&values);
        for (name, value) in &values {
            if value.starts_with("/run/secrets/") {
                command.env(name, &secret);
            }
        }
        let output = command.output().unwrap();
        let (shown, problem) = (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        );
        assert!(output.status.success(), "{overlay}: {problem}");
        // Nothing that was given is ignored.
        let given = shown.matches("environment KMS_NOTIFIER_").count();
        assert_eq!(given, values.len(), "{shown}");
    }
}

/// The ports that a pod names, with their numbers.
fn ports(pod: &Value) -> BTreeMap<String, u64> {
    containers(pod)
        .into_iter()
        .flat_map(|container| list(&container["ports"]))
        .map(|port| {
            let number = port["containerPort"].as_u64().unwrap();
            (text(&port["name"]).to_owned(), number)
        })
        .collect()
}

#[test]
fn services_probes_policies_and_monitors_name_ports_that_exist() {
    let operators = rendered("operators");
    let mut all_ports = BTreeSet::new();
    for name in ["vlmcsd", "relay", "replicated", "diag"] {
        let objects = rendered(name);
        let pod = pod(&objects);
        let ports = ports(pod);
        for service in of_kind(&objects, "Service") {
            assert_eq!(service["spec"]["selector"], pod["metadata"]["labels"]);
            for port in list(&service["spec"]["ports"]) {
                assert!(ports.contains_key(text(&port["targetPort"])), "{port}");
            }
        }
        for container in containers(pod) {
            for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
                for how in ["httpGet", "tcpSocket"] {
                    if let Some(port) = container[probe][how]["port"].as_str() {
                        assert!(ports.contains_key(port), "{name}: {probe} {port}");
                    }
                }
            }
        }
        let policy = of_kind(&objects, "NetworkPolicy")[0];
        let open: BTreeSet<u64> = list(&policy["spec"]["ingress"])
            .iter()
            .flat_map(|rule| list(&rule["ports"]))
            .map(|port| port["port"].as_u64().unwrap())
            .collect();
        assert_eq!(open, ports.values().copied().collect(), "{name}");
        let scraped = text(&pod["metadata"]["annotations"]["prometheus.io/port"]);
        assert!(
            ports.values().any(|port| port.to_string() == scraped),
            "{scraped}"
        );
        all_ports.extend(ports.into_keys());
    }
    for monitor in of_kind(&operators, "PodMonitor") {
        for endpoint in list(&monitor["spec"]["podMetricsEndpoints"]) {
            let port = text(&endpoint["port"]);
            assert!(all_ports.contains(port), "{port}");
        }
    }
}

#[test]
fn the_pod_keeps_what_the_runbook_promises() {
    for overlay in OVERLAYS {
        let objects = rendered(overlay);
        let spec = &pod(&objects)["spec"];
        let sidecar = &spec["initContainers"][0];
        assert_eq!(sidecar["restartPolicy"], "Always");
        assert!(sidecar["readinessProbe"].is_null() && sidecar["startupProbe"].is_null());
        assert_eq!(spec["enableServiceLinks"], false);
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            spec["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        for container in containers(pod(&objects)) {
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["capabilities"]["drop"][0], "ALL");
            assert!(container["resources"]["requests"]["memory"].is_string());
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
        let service = of_kind(&objects, "Service")
            .into_iter()
            .find(|service| service["spec"]["type"] == "LoadBalancer")
            .unwrap();
        assert_eq!(service["metadata"]["name"], "windows-kms");
        assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
        assert_eq!(service["spec"]["ports"][0]["port"], 1688);
    }
}

#[test]
fn what_the_manifests_ask_the_notifier_for_is_answered() {
    let objects = rendered("vlmcsd");
    let pod = pod(&objects);
    let all = containers(pod);
    let sidecar = all.iter().find(|c| c["name"] == "notifier").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fs::write(&log, "").unwrap();
    let running = Sidecar::spawn(notifier().args(["run", "--log"]).arg(&log));
    let scrape = text(&pod["metadata"]["annotations"]["prometheus.io/path"]);
    let probe = text(&sidecar["livenessProbe"]["httpGet"]["path"]);
    for path in [scrape, probe] {
        assert_eq!(running.get(path, "*/*").0, 200, "{path}");
    }
}

/// A server of the lab, with its admin port, on free ports; where it listens.
fn kms_core(directory: &Path, log: &Path) -> (Sidecar, u16) {
    let port_file = directory.join("port");
    let mut server = e2e::core();
    server
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .arg("--port-file")
        .arg(&port_file)
        .arg("--log")
        .arg(log);
    let server = Sidecar::spawn(&mut server);
    server.wait_for_log(|line| line.contains("metrics and limits on"));
    let port = fs::read_to_string(&port_file).unwrap();
    (server, port.trim().parse().unwrap())
}

/// The metrics that exist, each with its labels: the notifier's from its
/// documentation (which another test holds to what it exports), kms-core's from a
/// scrape.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let mut metrics = BTreeMap::new();
    let page = read("docs/metrics.md");
    for line in page.lines().filter(|line| line.starts_with("| `kms_")) {
        let mut cells = line.split('|').skip(1);
        let name = cells.next().unwrap().trim().trim_matches('`');
        let kind = cells.next().unwrap();
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels: BTreeSet<String> = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty())
            .map(String::from)
            .collect();
        if kind.contains("histogram") {
            let mut of_bucket = labels.clone();
            of_bucket.insert("le".into());
            metrics.insert(format!("{name}_bucket"), of_bucket);
            metrics.insert(format!("{name}_sum"), labels.clone());
            metrics.insert(format!("{name}_count"), labels);
        } else {
            metrics.insert(name.to_owned(), labels);
        }
    }
    assert!(metrics.len() > 20, "{metrics:?}");
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = kms_core(dir.path(), &dir.path().join("kms.log"));
    for sample in Exposition::classic(&server.metrics()).samples {
        let labels = sample.labels.into_keys().collect();
        metrics.insert(sample.name, labels);
    }
    assert!(
        metrics.contains_key("kms_core_limit_overloaded"),
        "{metrics:?}"
    );
    metrics
}

/// Every metric in a query exists, and so does every label it is selected by.
fn check_query(query: &str, metrics: &BTreeMap<String, BTreeSet<String>>) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = query;
    let mut found = 0;
    while let Some(at) = rest.find("kms_") {
        let end = rest[at..]
            .find(|c| !is_name(c))
            .map_or(rest.len(), |end| at + end);
        let name = &rest[at..end];
        let labels = metrics
            .get(name)
            .unwrap_or_else(|| panic!("nothing exports {name}, in {query}"));
        rest = &rest[end..];
        found += 1;
        let Some(selector) = rest.strip_prefix('{') else {
            continue;
        };
        let selector = &selector[..selector.find('}').unwrap()];
        for matcher in selector.split(',') {
            let label: String = matcher.chars().take_while(|c| is_name(*c)).collect();
            assert!(
                label == "instance" || labels.contains(&label),
                "{name} has no label {label}, in {query}"
            );
        }
    }
    assert!(found > 0, "{query} asks for no metric of ours");
}

/// The alerts of the rules file.
fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&read("deploy/prometheus/kms-rules.yaml")).unwrap();
    let groups = list(&rules["groups"]);
    groups
        .iter()
        .flat_map(|group| list(&group["rules"]))
        .cloned()
        .collect()
}

/// The queries of the dashboard, by their panel's title.
fn dashboard() -> (Value, Vec<(String, String)>) {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/kms.json")).unwrap();
    let queries = list(&dashboard["panels"])
        .iter()
        .flat_map(|panel| {
            let title = text(&panel["title"]).to_owned();
            let targets = list(&panel["targets"]).iter();
            targets.map(move |target| (title.clone(), text(&target["expr"]).to_owned()))
        })
        .collect();
    (dashboard, queries)
}

/// The PromQL of the runbook: what its tables hold under a heading of that name.
fn runbook_queries() -> Vec<String> {
    let page = read("docs/operating.md");
    let section = page.split("### In Prometheus").nth(1).unwrap();
    let section = section.split("\n### ").next().unwrap();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once("| `"))
        .map(|(_, query)| query.split('`').next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_query_asks_for_metrics_that_exist() {
    let metrics = metrics();
    for alert in alerts() {
        check_query(text(&alert["expr"]), &metrics);
    }
    let (_, queries) = dashboard();
    assert!(queries.len() > 20, "{queries:?}");
    for (_, query) in queries {
        check_query(&query, &metrics);
    }
    let queries = runbook_queries();
    assert!(queries.len() > 5, "{queries:?}");
    for query in queries {
        check_query(&query, &metrics);
    }
}

#[test]
fn every_query_is_promql() {
    if Command::new("promtool").arg("--version").output().is_err() {
        println!("skipped: promtool is not here (package prometheus)");
        return;
    }
    let mut queries: Vec<String> = dashboard().1.into_iter().map(|(_, query)| query).collect();
    queries.extend(runbook_queries());
    let rules: Vec<Value> = queries
        .iter()
        .enumerate()
        .map(|(n, query)| {
            // What Grafana puts in place of its variables.
            let query = query
                .replace("$__rate_interval", "5m")
                .replace("$__range", "1d")
                .replace("$instance", ".*");
            assert!(!query.contains('$'), "{query}");
            serde_json::json!({ "record": format!("query{n}"), "expr": query })
        })
        .collect();
    let rules = serde_json::json!({ "groups": [{ "name": "queries", "rules": rules }] });
    let file = tempfile::NamedTempFile::new().unwrap();
    // JSON is YAML.
    fs::write(file.path(), rules.to_string()).unwrap();
    let checked = Command::new("promtool")
        .args(["check", "rules"])
        .arg(file.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "{said}");
}

#[test]
fn the_dashboard_is_what_grafana_imports() {
    let (dashboard, _) = dashboard();
    for key in [
        "title",
        "uid",
        "schemaVersion",
        "templating",
        "time",
        "panels",
    ] {
        assert!(!dashboard[key].is_null(), "{key}");
    }
    assert!(dashboard["id"].is_null(), "an id is one Grafana's own");
    let variables: BTreeSet<_> = list(&dashboard["templating"]["list"])
        .iter()
        .map(|variable| text(&variable["name"]))
        .collect();
    assert_eq!(variables, BTreeSet::from(["datasource", "instance"]));
    let mut taken = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for panel in list(&dashboard["panels"]) {
        assert!(panel["id"].is_null(), "{panel}");
        assert!(
            titles.insert(text(&panel["title"])),
            "{} twice",
            panel["title"]
        );
        let number = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(number("x") + number("w") <= 24, "{panel}");
        for y in number("y")..number("y") + number("h") {
            for x in number("x")..number("x") + number("w") {
                assert!(taken.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
        for target in list(&panel["targets"]) {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{target}");
        }
    }
}

/// Reads OpenMetrics as its specification wants it, and prints how many families.
const STRICT_PARSER: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
print(len(list(text_string_to_metric_families(sys.stdin.read()))))
";

#[test]
fn a_strict_parser_reads_the_open_metrics_form() {
    let Some(python) = std::env::var_os("CHECK_PYTHON") else {
        println!("skipped: CHECK_PYTHON names no Python with prometheus-client; ./check sets it");
        return;
    };
    let recording = Recording::named("svn1113-refused");
    let running = Sidecar::spawn(
        notifier()
            .args(["run", "--from", "start", "--log"])
            .arg(&recording.path),
    );
    running.wait_for_line(|line| line.contains("refused"));
    let (_, body) = running.get("/metrics", "application/openmetrics-text; version=1.0.0");
    let parse = |body: &str| {
        let mut parser = Command::new(&python)
            .args(["-c", STRICT_PARSER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = parser.stdin.take().unwrap();
        input.write_all(body.as_bytes()).unwrap();
        drop(input);
        parser.wait_with_output().unwrap()
    };
    let parsed = parse(&body);
    let said = String::from_utf8_lossy(&parsed.stderr).into_owned();
    assert!(parsed.status.success(), "{said}\n{body}");
    let families: usize = String::from_utf8(parsed.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(families, body.matches("# TYPE ").count());
    // The parser is strict: without the end it takes nothing.
    assert!(!parse(body.trim_end_matches("# EOF\n")).status.success());
}

/// The anchors of a page, as GitHub makes them of its headings.
fn anchors(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_alert_has_a_severity_a_place_in_the_runbook_and_a_test_of_both_kinds() {
    let anchors = anchors(&read("docs/operating.md"));
    let tests: Value =
        serde_saphyr::from_str(&read("deploy/prometheus/kms-rules.test.yaml")).unwrap();
    let tried: Vec<(&str, bool)> = list(&tests["tests"])
        .iter()
        .flat_map(|test| list(&test["alert_rule_test"]))
        .map(|test| {
            (
                text(&test["alertname"]),
                !list(&test["exp_alerts"]).is_empty(),
            )
        })
        .collect();
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = text(&alert["alert"]);
        assert!(names.insert(name.to_owned()), "{name} twice");
        let severity = text(&alert["labels"]["severity"]);
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}: {severity}"
        );
        assert!(!text(&alert["annotations"]["summary"]).is_empty());
        let runbook = text(&alert["annotations"]["runbook_url"]);
        let anchor = runbook.strip_prefix("docs/operating.md#").unwrap();
        assert!(anchors.contains(anchor), "{name}: no heading for {runbook}");
        assert_eq!(anchor, name.to_lowercase());
        for fires in [true, false] {
            assert!(
                tried.contains(&(name, fires)),
                "{name}: no test where fires={fires}"
            );
        }
    }
}

/// The targets of a page's Markdown links, outside of code.
fn links(page: &str) -> Vec<String> {
    let mut code = false;
    let mut links = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code || line.starts_with("    ") {
            continue;
        }
        let after = line.split("](").skip(1);
        links.extend(after.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }
    links
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let mut pages: Vec<PathBuf> = docs.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "fixtures/README.md",
    ] {
        pages.push(root().join(page));
    }
    for path in pages {
        let page = fs::read_to_string(&path).unwrap();
        for link in links(&page) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&target).unwrap());
                assert!(anchors.contains(anchor), "{}: {link}", path.display());
            }
        }
    }
}

#[test]
fn man_pages_and_completions_are_generated_and_their_shell_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let status = notifier().arg("generate").arg(dir.path()).status().unwrap();
    assert!(status.success());
    let page = fs::read_to_string(dir.path().join("man/kms-notifier-run.1")).unwrap();
    assert!(page.contains("ca\\-file"), "{page}");
    let completions = dir.path().join("completions/kms-notifier.bash");
    let status = Command::new("bash")
        .arg("-n")
        .arg(completions)
        .status()
        .unwrap();
    assert!(status.success());

    let in_a_file = dir.path().join("man/kms-notifier.1");
    let output = notifier().arg("generate").arg(&in_a_file).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("kms-notifier: cannot write "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// As in the overlay for the relay: nobody signals the server.
#[test]
fn the_notifier_rotates_the_log_of_kms_core_and_misses_nothing() {
    const VISITS: u16 = 900;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("kms.log");
    let (_server, port) = kms_core(dir.path(), &log);
    let sidecar = Sidecar::spawn(
        notifier()
            .args(["run", "--from", "start", "--rotate-at", "64KiB", "--log"])
            .arg(&log),
    );
    for visit in 1..=VISITS {
        drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
        // Now and then all is read, so that there is something to rotate.
        if visit % 300 == 0 {
            sidecar.wait_for_sample(
                r#"kms_connection_probes_total{source="external"}"#,
                |probes| probes == f64::from(visit),
            );
        }
    }
    sidecar.wait_for_sample(
        r#"kms_notifier_log_rotations_total{log="kms.log",kind="rename"}"#,
        |rotations| rotations > 0.0,
    );
    assert!(dir.path().join("kms.log.1").exists());
    drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    sidecar.wait_for_sample(
        r#"kms_connection_probes_total{source="external"}"#,
        |probes| probes == f64::from(VISITS + 1),
    );
    // What came after the renaming stands in a new file.
    assert!(log.exists());
}
