use std::fs;
use std::path::Path;

use super::*;

const WEBHOOK: &str = "https://hooks.example.com/services/S3CRET";

/// A certificate.
const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tls/authority.pem");

/// Loads with these arguments (separated by blanks), variables and file. The
/// file's directory is cut out of what is said.
fn try_load(args: &str, env: &[(&str, &str)], file: &str) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kms.toml");
    let mut args: Vec<OsString> = ["kms-notifier"]
        .into_iter()
        .chain(args.split_ascii_whitespace())
        .map(|arg| {
            arg.replace("DIR/", &format!("{}/", dir.path().display()))
                .into()
        })
        .collect();
    if !file.is_empty() {
        fs::write(&path, file).unwrap();
        args.insert(2, "--config".into());
        args.insert(3, path.into());
    }
    fs::write(dir.path().join("webhook"), format!("{WEBHOOK}\n")).unwrap();
    fs::write(dir.path().join("large"), " ".repeat(2 << 20)).unwrap();
    let env = |name: &str| {
        let value = env.iter().find(|(known, _)| *known == name)?.1;
        Some(
            value
                .replace("DIR/", &format!("{}/", dir.path().display()))
                .into(),
        )
    };
    load(args, &env).map_err(|stop| {
        let Stop::Config(error) = stop else {
            panic!("{stop}")
        };
        let line = error.to_string();
        assert!(!line.contains('\n'), "{line}");
        assert!(!line.contains("S3CRET"), "{line}");
        line.replace(&format!("{}/", dir.path().display()), "")
    })
}

fn error(args: &str, env: &[(&str, &str)], file: &str) -> String {
    try_load(args, env, file)
        .map(|loaded| loaded.effective.to_string())
        .unwrap_err()
}

/// The value and the origin that `check-config` shows for a key.
fn shown(loaded: &Loaded, key: &str) -> (String, String) {
    let text = loaded.effective.to_string();
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(key))
        .unwrap();
    let mut parts = line
        .split("  ")
        .filter(|part| !part.is_empty())
        .map(str::trim);
    assert_eq!(parts.next(), Some(key), "{line}");
    (
        parts.next().unwrap().to_owned(),
        parts.next().unwrap().to_owned(),
    )
}

fn config(loaded: Loaded) -> Config {
    match loaded.command {
        Command::Run(config) | Command::CheckConfig(config) | Command::TestNotify(config) => {
            *config
        }
        other => panic!("{other:?}"),
    }
}

/// A key, the key it shows under where that is another, and for flag, variable
/// and file what is given and what is shown.
type Spelling = (
    &'static str,
    &'static str,
    [(&'static str, &'static str); 3],
);

const SPELLINGS: [Spelling; 32] = [
    (
        "state",
        "",
        [("/a.redb", "/a.redb"), ("b.redb", "b.redb"), ("'/c'", "/c")],
    ),
    (
        "post-max-age",
        "",
        [("1h", "1h"), ("120", "2m"), ("'90s'", "1m 30s")],
    ),
    (
        "input-format",
        "",
        [("cri", "cri"), ("docker", "docker"), ("'syslog'", "syslog")],
    ),
    (
        "log-timezone",
        "",
        [
            ("Europe/Paris", "Europe/Paris"),
            ("Asia/Tokyo", "Asia/Tokyo"),
            ("'UTC'", "UTC"),
        ],
    ),
    (
        "max-line",
        "",
        [("1MiB", "1MiB"), ("2000", "2000"), ("4096", "4KiB")],
    ),
    (
        "pod-cidr",
        "",
        [
            ("10.1.0.0/16", "10.1.0.0/16"),
            ("10.2.0.0/16, 10.3.0.0/16", "10.2.0.0/16,10.3.0.0/16"),
            ("['10.4.0.0/16', '10.5.0.0/16']", "10.4.0.0/16,10.5.0.0/16"),
        ],
    ),
    (
        "node-cidr",
        "",
        [
            ("fd00::/8", "fd00::/8"),
            ("10.2.0.1", "10.2.0.1/32"),
            ("'10.4.0.0/16'", "10.4.0.0/16"),
        ],
    ),
    (
        "classes",
        "",
        [
            ("a=10.1.0.0/16,10.2.0.0/16", "a=10.1.0.0/16,10.2.0.0/16"),
            (
                "b=10.1.0.0/16; c=10.2.0.0/16",
                "b=10.1.0.0/16 c=10.2.0.0/16",
            ),
            (
                "{ d = '10.1.0.0/16', e = ['10.2.0.0/16'] }",
                "d=10.1.0.0/16 e=10.2.0.0/16",
            ),
        ],
    ),
    (
        "dedup-window",
        "",
        [("90s", "1m 30s"), ("1h", "1h"), ("7200", "2h")],
    ),
    (
        "post-refused",
        "",
        [("true", "true"), ("no", "false"), ("true", "true")],
    ),
    (
        "no-page",
        "",
        [("true", "true"), ("no", "false"), ("true", "true")],
    ),
    (
        "log-format",
        "",
        [("json", "json"), ("human", "human"), ("'json'", "json")],
    ),
    (
        "log-level",
        "",
        [("debug", "debug"), ("warn", "warn"), ("'off'", "off")],
    ),
    (
        "log",
        "",
        [
            ("a=/x/y=z", "a=/x/y=z"),
            ("b=/x,-", "b=/x stdin=-"),
            ("['/d/é log']", "___log=/d/é log"),
        ],
    ),
    (
        "from",
        "",
        [("start", "start"), ("end", "end"), ("'start'", "start")],
    ),
    (
        "first-run",
        "",
        [("start", "start"), ("end", "end"), ("'start'", "start")],
    ),
    (
        "rotated-glob",
        "",
        [
            ("{}.*", "{}.*"),
            ("old/{}-*", "old/{}-*"),
            ("'x-*.log'", "x-*.log"),
        ],
    ),
    (
        "rotate-at",
        "",
        [("64KiB", "64KiB"), ("8GiB", "8GiB"), ("65537", "65537")],
    ),
    ("rotate-keep", "", [("1", "1"), ("100", "100"), ("7", "7")]),
    (
        "silence-after",
        "",
        [("120", "2m"), ("0", "0s"), ("'1h'", "1h")],
    ),
    (
        "dedup-store",
        "",
        [
            ("redis://a", "[redacted]"),
            ("rediss://u:S3CRET@a:1/2", "[redacted]"),
            ("'redis://[::1]'", "[redacted]"),
        ],
    ),
    (
        "dedup-store-password-file",
        "",
        [
            ("/dev/null", "/dev/null"),
            ("/dev/../dev/null", "/dev/../dev/null"),
            ("'/dev/null'", "/dev/null"),
        ],
    ),
    (
        "dedup-store-ca-file",
        "",
        [
            ("/dev/null", "/dev/null"),
            ("/dev/../dev/null", "/dev/../dev/null"),
            ("'/dev/null'", "/dev/null"),
        ],
    ),
    (
        "dedup-store-timeout",
        "",
        [("250ms", "250ms"), ("4", "4s"), ("'2s'", "2s")],
    ),
    (
        "slack-webhook-url",
        "",
        [
            (WEBHOOK, "[redacted]"),
            (WEBHOOK, "[redacted]"),
            ("'http://[::1]/'", "[redacted]"),
        ],
    ),
    (
        "slack-webhook-url-file",
        "slack-webhook-url",
        [
            ("DIR/webhook", "[redacted]"),
            ("DIR/webhook", "[redacted]"),
            ("''", ""),
        ],
    ),
    (
        "ca-file",
        "",
        [(AUTHORITY, AUTHORITY), (AUTHORITY, AUTHORITY), ("''", "")],
    ),
    (
        "slack-channel",
        "",
        [("#a", "#a"), ("#b", "#b"), ("'#c'", "#c")],
    ),
    ("slack-username", "", [("a", "a"), ("b", "b"), ("'c'", "c")]),
    (
        "slack-icon",
        "",
        [(":a:", ":a:"), (":b:", ":b:"), ("':c:'", ":c:")],
    ),
    (
        "slack-timeout",
        "",
        [("250ms", "250ms"), ("5m", "5m"), ("'20s'", "20s")],
    ),
    (
        "metrics-listen",
        "",
        [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]:2", "[::1]:2"),
            ("'192.0.2.1:3'", "192.0.2.1:3"),
        ],
    ),
];

#[test]
fn every_key_has_three_spellings_and_the_nearer_one_counts() {
    for (key, shown_as, [flag, variable, file]) in SPELLINGS {
        let shown_as = if shown_as.is_empty() { key } else { shown_as };
        let flag_text = format!("--{key}={}", flag.0);
        let name = format!("KMS_NOTIFIER_{}", key.to_uppercase().replace('-', "_"));
        let text = format!("{key} = {}", file.0);
        let log = if key == "log" { "" } else { "--log /x" };
        // Without a webhook a store is not used, and a warning says so.
        let webhook = format!("--slack-webhook-url={WEBHOOK}");
        let log = format!("{log} {}", if key == "dedup-store" { &webhook } else { "" });

        let args = format!("check-config {log} {flag_text}");
        let loaded = try_load(&args, &[(&name, variable.0)], &text).unwrap();
        assert_eq!(
            shown(&loaded, shown_as),
            (flag.1.into(), format!("flag --{key}"))
        );
        assert_eq!(loaded.warnings, [""; 0]);

        let args = format!("check-config {log}");
        let loaded = try_load(&args, &[(&name, variable.0)], &text).unwrap();
        assert_eq!(
            shown(&loaded, shown_as),
            (variable.1.into(), format!("environment {name}"))
        );

        // An empty variable is unset.
        if !matches!(key, "slack-webhook-url-file" | "ca-file") {
            let loaded = try_load(&args, &[(&name, "")], &text).unwrap();
            let (value, origin) = shown(&loaded, shown_as);
            assert_eq!(value, file.1, "{key}");
            assert!(
                origin.starts_with("file /") && origin.ends_with("/kms.toml"),
                "{origin}"
            );
        }
    }
    let mut tested: Vec<_> = SPELLINGS.iter().map(|(key, ..)| *key).collect();
    tested.push("metrics-port"); // below
    tested.sort_unstable();
    let mut keys = RawConfig::keys();
    keys.sort_unstable();
    assert_eq!(tested, keys);
}

#[test]
fn the_port_may_be_given_apart() {
    let address = |args: &str, env: &[(&str, &str)], file: &str| {
        let loaded = try_load(&format!("run --log /x {args}"), env, file).unwrap();
        config(loaded).metrics.address.to_string()
    };
    assert_eq!(address("", &[], ""), "[::]:9101");
    assert_eq!(address("--metrics-port 0", &[], ""), "[::]:0");
    assert_eq!(address("", &[("METRICS_PORT", "1")], ""), "[::]:1");
    assert_eq!(address("", &[], "metrics-port = 2"), "[::]:2");
    assert_eq!(
        address("", &[("METRICS_PORT", "1")], "metrics-listen = '[::1]:2'"),
        "[::1]:1"
    );
    assert_eq!(
        address("--metrics-listen [::1]:3", &[("METRICS_PORT", "1")], ""),
        "[::1]:3"
    );
    assert_eq!(
        address("--metrics-listen [::1]:3 --metrics-port 3", &[], ""),
        "[::1]:3"
    );
    insta::assert_snapshot!(
        error("run --log /x --metrics-listen [::1]:3 --metrics-port 4", &[], ""), @"--metrics-listen: [::1]:3 and --metrics-port 4 differ; give one of them");
}

#[test]
fn the_ancestors_variables_work() {
    let loaded = try_load(
        "run",
        &[
            ("VLMCSD_LOG", "/var/log/a,b.log"),
            ("SLACK_WEBHOOK_URL", WEBHOOK),
            ("SLACK_CHANNEL", "#kms"),
            ("DEDUP_WINDOW_SECONDS", "60"),
            ("METRICS_PORT", "0"),
        ],
        "",
    )
    .unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    assert_eq!(
        shown(&loaded, "dedup-window").1,
        "environment DEDUP_WINDOW_SECONDS"
    );
    let config = config(loaded);
    let input = Input::File("/var/log/a,b.log".into());
    assert_eq!(
        config.logs,
        [Log {
            name: "a_b.log".into(),
            input
        }]
    );
    assert_eq!(config.slack.webhook.unwrap().expose(), WEBHOOK);
    assert_eq!(config.slack.channel.as_deref(), Some("#kms"));
    assert_eq!(config.reading.dedup_window, Duration::from_secs(60));
    assert_eq!(config.metrics.address.port(), 0);

    let loaded = try_load(
        "run --log /x",
        &[("SLACK_WEBHOOK_URL_FILE", "DIR/webhook")],
        "",
    );
    assert_eq!(
        self::config(loaded.unwrap())
            .slack
            .webhook
            .unwrap()
            .expose(),
        WEBHOOK
    );
}

#[test]
fn the_new_name_wins_and_says_so() {
    let env = [("KMS_NOTIFIER_LOG", "/new"), ("VLMCSD_LOG", "/old")];
    let loaded = try_load("run", &env, "").unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "KMS_NOTIFIER_LOG and VLMCSD_LOG have different values; KMS_NOTIFIER_LOG counts, unset \
          the other"
        ]
    );
    assert_eq!(shown(&loaded, "log").0, "new=/new");

    let env = [("KMS_NOTIFIER_LOG", "/same"), ("VLMCSD_LOG", "/same")];
    assert_eq!(try_load("run", &env, "").unwrap().warnings, [""; 0]);
}

#[test]
fn a_port_that_kubernetes_injected_is_ignored() {
    for name in ["METRICS_PORT", "KMS_NOTIFIER_METRICS_PORT"] {
        let loaded = try_load("run --log /x", &[(name, "tcp://10.0.0.1:9101")], "").unwrap();
        assert_eq!(
            loaded.warnings,
            [format!(
                "{name} is ignored: its value (tcp://…) is what Kubernetes sets for a Service of \
                 that name, not a port"
            )]
        );
        assert_eq!(config(loaded).metrics.address.port(), 9101);
    }
}

#[test]
fn a_store_needs_a_webhook_and_can_be_taken_away() {
    let store = |args: &str, file: &str| {
        let loaded = try_load(&format!("run --log /x {args}"), &[], file).unwrap();
        let warnings = loaded.warnings.clone();
        (config(loaded).dedup_store.is_some(), warnings)
    };
    let webhook = format!("--slack-webhook-url={WEBHOOK}");
    let file = "dedup-store = 'redis://:S3CRET@host'";
    assert_eq!(store(&webhook, file), (true, vec![]));
    assert_eq!(
        store(&format!("{webhook} --dedup-store="), file),
        (false, vec![])
    );
    let (used, warnings) = store("--dedup-store redis://:S3CRET@host", "");
    assert!(!used);
    assert_eq!(
        warnings,
        [
            "--dedup-store is not used: without a webhook nothing is told that others could leave out"
        ]
    );
    let password = format!("{webhook} --dedup-store-password-file DIR/webhook");
    let loaded = try_load(
        &format!("run --log /x {password}"),
        &[],
        "dedup-store = 'redis://host'",
    );
    let loaded = loaded.unwrap();
    assert!(!format!("{loaded:?}").contains("S3CRET"));
    let store = config(loaded).dedup_store.unwrap();
    assert_eq!(store.access().password, Some(WEBHOOK));
}

#[test]
fn a_higher_place_beats_a_lower_ones_webhook_in_either_form() {
    let env = [("SLACK_WEBHOOK_URL_FILE", "DIR/none")];
    let loaded = try_load(
        &format!("run --log /x --slack-webhook-url={WEBHOOK}"),
        &env,
        "",
    );
    assert_eq!(
        shown(&loaded.unwrap(), "slack-webhook-url").1,
        "flag --slack-webhook-url"
    );
}

#[test]
fn nothing_shows_the_webhook() {
    let loaded = try_load(
        &format!("run --log /x --slack-webhook-url {WEBHOOK}"),
        &[],
        "",
    )
    .unwrap();
    assert!(!loaded.effective.to_string().contains("hooks"));
    assert!(!format!("{loaded:?}").contains("hooks"));
    // In the wrong place, it is an error that does not repeat it (see `try_load`).
    for (args, env) in [
        (format!("run --log /x {WEBHOOK}"), ("", "")),
        (
            format!("run --log /x --slack-webhook-url= {WEBHOOK}"),
            ("", ""),
        ),
        (
            format!("run --log /x --slack-webhook-url-file {WEBHOOK}"),
            ("", ""),
        ),
        (format!("run --log /x --config {WEBHOOK}"), ("", "")),
        (format!("{WEBHOOK} run"), ("", "")),
        (
            "run --log /x".to_owned(),
            ("SLACK_WEBHOOK_URL_FILE", WEBHOOK),
        ),
        ("run --log /x".to_owned(), ("METRICS_PORT", WEBHOOK)),
        (
            "run --log /x".to_owned(),
            ("SLACK_WEBHOOK_URL", "ftp://hooks.example.com/S3CRET"),
        ),
    ] {
        assert_ne!(error(&args, &[env], ""), "");
    }
    for file in [
        format!("slack-webhook-url = {WEBHOOK}"),
        format!("slack-webhook-url = '{WEBHOOK}"),
        format!("slack-webhook-url = ['{WEBHOOK}']"),
        format!("'{WEBHOOK}' = 1"),
    ] {
        assert_ne!(error("run --log /x", &[], &file), "");
    }
}

#[test]
fn each_error_names_the_key_and_the_fix() {
    let mut said = String::new();
    let mut say = |line: String| {
        said.push_str(&line);
        said.push('\n');
    };
    for args in [
        "",
        "rum",
        "run",
        "run --log /x --slack-timout 5s",
        "run --log /x --slack-timeout",
        "run --log /x --slack-timeout 5x",
        "run --log /x --slack-timeout 1ms",
        "run --log /x --dedup-window 99d",
        "run --log /x --max-line 10",
        "run --log /x --max-line 64kb",
        "run --log /x --from resume",
        "run --log /x --state /a/",
        "run --log /x --state-reset",
        "run --log /x --post-max-age 1s",
        "dead-letters list",
        "dead-letters retry --state /a",
        "dead-letters drop 3 --all --state /a",
        "run --log /x --from middle",
        "run --log /x --first-run resume",
        "run --log /x --rotated-glob old/",
        "run --log /x --rotate-at 1KiB",
        "run --log /x --rotate-at 1MiB --rotate-keep 0",
        "run --log /x --rotate-at 1MiB --rotated-glob {}-*",
        "run --log /x --silence-after 99w",
        "run --log /x --dedup-store http://:S3CRET@host",
        "run --log /x --dedup-store redis://:S3CRET@host --dedup-store-password-file DIR/webhook",
        "run --log /x --dedup-store redis://host --dedup-store-password-file /no/such/file",
        "run --log /x --dedup-store redis://host --dedup-store-password-file /dev/null",
        "run --log /x --dedup-store redis://host --dedup-store-ca-file /dev/null",
        "run --log /x --dedup-store rediss://host --dedup-store-ca-file DIR/large",
        "run --log /x --dedup-store rediss://host --dedup-store-ca-file DIR/webhook",
        "run --log /x --dedup-store redis://host --dedup-window 0",
        "run --log /x --dedup-store-timeout 1ms",
        "run --log /x --format xml",
        "run --log /x --format=xml -- vlmcsd --input-format x",
        "run --log /x --input-format xml",
        "replay --format json --input-format xml x",
        "run --log /x --log-format xml",
        "run --log /x --log-level loud",
        "run --log /x --log-timezone Mars/Olympus",
        "run --log /x --post-refused=maybe",
        "run --log /x --pod-cidr 10.0.0.0/33",
        "run --log /x --node-cidr 10.0.0.1/24",
        "run --log /x --class office",
        "run --log /x --class a/b=10.0.0.0/8",
        "run --log /x --class external=10.0.0.0/8",
        "run --log /x --class a=10.10.0.0/16",
        "run --log /x --class a=10.9.0.0/16 --classes b=10.9.0.0/16",
        "run --log /x --class a=10.9.0.0/16 --pod-cidr 10.9.0.0/16",
        "run --log /x --pod-cidr 10.0.20.0/24",
        "run --log /x --node-cidr 10.10.0.0/16",
        "run --log /x --class a=10.0.0.0/8 --class a=11.0.0.0/8",
        "run --log /x --metrics-port 65536",
        "run --log /x --metrics-listen localhost",
        "run --log /x --slack-webhook-url http://example.com",
        "run --log /x --slack-webhook-url example",
        "run --log /x --slack-webhook-url-file /no/such/file",
        "run --log /x --slack-webhook-url-file DIR/large",
        "run --log /x --slack-webhook-url https://u:S3CRET@host/x",
        "run --log /x --slack-icon key",
        "run --log /x --ca-file /no/such/file",
        "run --log /x --ca-file DIR/large",
        "run --log /x --ca-file DIR/webhook",
        "run --log /x --config /no/such/file",
        "run --log /x --config DIR/large",
        "run --log /a/x --log /b/x",
        "run --log a=/x --log b=/x",
        "run --log - --log a=-",
        "run --log child=/x -- vlmcsd -D",
        "run --log a:b=/x",
        "run --log a=",
        "run --log /var/log/",
        "test-notify",
        "replay",
        "replay --format xml x",
        "replay --slack-channel c x",
        "explain x 0",
        "explain x",
    ] {
        say(format!("{args}\n  {}", error(args, &[], "")));
    }
    for (name, value) in [
        ("KMS_NOTIFIER_SLACK_TIMEOUT", "5x"),
        ("DEDUP_WINDOW_SECONDS", "an hour"),
        ("METRICS_PORT", "http"),
        ("KMS_NOTIFIER_CONFIG", "/no/such/file"),
        ("SLACK_CHANNEL", "a\nb"),
        ("KMS_NOTIFIER_SLACK_ICON", "key"),
        ("KMS_NOTIFIER_CLASS", "office"),
        ("KMS_NOTIFIER_NODE_CIDR", "10.10.0.0/16"),
        ("SLACK_WEBHOOK_URL", "https://u:S3CRET@host/x"),
    ] {
        say(format!(
            "{name}={value:?}\n  {}",
            error("run --log /x", &[(name, value)], "")
        ));
    }
    let both = [
        ("SLACK_WEBHOOK_URL", WEBHOOK),
        ("KMS_NOTIFIER_SLACK_WEBHOOK_URL_FILE", "/x"),
    ];
    say(format!("both\n  {}", error("run --log /x", &both, "")));
    for file in [
        "slack-timeot = 5",
        "xyzzy = 5",
        "SLACK-TIMEOUT = 5",
        "config = 'x'",
        "slack-timeout = '5x'",
        "slack-timeout = ['5s']",
        "slack-timeout = 1.5",
        "slack-icon = 'key'",
        "slack-webhook-url = 5",
        "pod-cidr = 5.5",
        "pod-cidr = ['10.0.0.0/33']",
        "log = { a = '/x' }",
        "classes = 5.5",
        "[classes]\na = 5.5",
        "[classes]\na = ['10.0.0.0/33']",
        "[class]\na = 5.5",
        "[class]\na = ['10.10.0.0/16']",
        "format = 'json'",
        "pod-cidr = '10.9.0.0/16'\nnode-cidr = '10.9.0.0/16'",
        "[office]\na = 1",
        "format = 'cri'\ninput-format = 'cri'",
        "from = 'end'\nfrom = 'start'",
        "from = 'end'\n\nlog = [",
    ] {
        say(format!("{file:?}\n  {}", error("run --log /x", &[], file)));
    }
    insta::assert_snapshot!(said, @r#"
      no command given; try `kms-notifier run --log PATH` or `kms-notifier --help`
    rum
      unrecognized subcommand 'rum'; tip: a similar subcommand exists: 'run'
    run
      --log: nothing to read; give --log PATH, --log - for standard input, or -- CMD ARGS… to start the server
    run --log /x --slack-timout 5s
      unexpected argument '--slack-timout' found; tip: a similar argument exists: '--slack-timeout'
    run --log /x --slack-timeout
      a value is required for '--slack-timeout <DURATION>' but none was supplied
    run --log /x --slack-timeout 5x
      --slack-timeout: "5x" is not a duration; write 10s, 5m, 1h or plain seconds
    run --log /x --slack-timeout 1ms
      --slack-timeout: 1ms is out of bounds; give 100ms to 5m
    run --log /x --dedup-window 99d
      --dedup-window: "99d" is not a duration; write 10s, 5m, 1h or plain seconds
    run --log /x --max-line 10
      --max-line: 10 is out of bounds; give 1KiB to 16MiB
    run --log /x --max-line 64kb
      --max-line: "64kb" is not a size; write 64KiB, 1MiB or plain bytes
    run --log /x --from resume
      --from: there is no state to resume from; give --state PATH, or end or start
    run --log /x --state /a/
      --state: "/a/" is not a file; give the path of one
    run --log /x --state-reset
      --state-reset: there is no state to remove; give --state PATH, too
    run --log /x --post-max-age 1s
      --post-max-age: 1s is out of bounds; give 1m to 876000h
    dead-letters list
      --state: dead letters are kept in a state; give the --state PATH of the sidecar
    dead-letters retry --state /a
      which dead letters? give their numbers, or --all (and not both)
    dead-letters drop 3 --all --state /a
      which dead letters? give their numbers, or --all (and not both)
    run --log /x --from middle
      --from: "middle" is not known; give one of end, start, resume
    run --log /x --first-run resume
      --first-run: "resume" is not known; give one of end, start
    run --log /x --rotated-glob old/
      --rotated-glob: "old/" finds no rotated files: it ends in a directory; add a pattern for the files, such as {}.*
    run --log /x --rotate-at 1KiB
      --rotate-at: 1KiB is too small; give 64KiB or more
    run --log /x --rotate-at 1MiB --rotate-keep 0
      --rotate-keep: 0 is out of bounds; give 1 to 100
    run --log /x --rotate-at 1MiB --rotated-glob {}-*
      --rotate-at: /x would be renamed to /x.1, which --rotated-glob {}-* does not match; give one that does
    run --log /x --silence-after 99w
      --silence-after: "99w" is not a duration; write 10s, 5m, 1h or plain seconds
    run --log /x --dedup-store http://:S3CRET@host
      --dedup-store: is not the address of a store; give redis://… or rediss://…
    run --log /x --dedup-store redis://:S3CRET@host --dedup-store-password-file DIR/webhook
      --dedup-store: has a password in it, and --dedup-store-password-file has one; give one of them
    run --log /x --dedup-store redis://host --dedup-store-password-file /no/such/file
      --dedup-store-password-file: cannot read /no/such/file: No such file or directory (os error 2); give a readable file
    run --log /x --dedup-store redis://host --dedup-store-password-file /dev/null
      --dedup-store: the password file is empty; write the password into it, or give none
    run --log /x --dedup-store redis://host --dedup-store-ca-file /dev/null
      --dedup-store: has no TLS to check; give rediss://… or no --dedup-store-ca-file
    run --log /x --dedup-store rediss://host --dedup-store-ca-file DIR/large
      --dedup-store-ca-file: cannot read large: it is larger than 1048576 bytes; give a readable file
    run --log /x --dedup-store rediss://host --dedup-store-ca-file DIR/webhook
      --dedup-store: --dedup-store-ca-file has no certificates; give a file of them, as PEM
    run --log /x --dedup-store redis://host --dedup-window 0
      --dedup-store: there is nothing to agree on with --dedup-window 0, which tells everything; give a window, or no store
    run --log /x --dedup-store-timeout 1ms
      --dedup-store-timeout: 1ms is out of bounds; give 50ms to 4s
    run --log /x --format xml
      --format: "xml" is not known; give one of auto, plain, cri, docker, syslog
    run --log /x --format=xml -- vlmcsd --input-format x
      --format: "xml" is not known; give one of auto, plain, cri, docker, syslog
    run --log /x --input-format xml
      --input-format: "xml" is not known; give one of auto, plain, cri, docker, syslog
    replay --format json --input-format xml x
      --input-format: "xml" is not known; give one of auto, plain, cri, docker, syslog
    run --log /x --log-format xml
      --log-format: "xml" is not known; give one of human, json
    run --log /x --log-level loud
      --log-level: "loud" is not known; give one of error, warn, info, debug, trace, off
    run --log /x --log-timezone Mars/Olympus
      --log-timezone: "Mars/Olympus" is not a time zone; give an IANA name such as Europe/Berlin or UTC
    run --log /x --post-refused=maybe
      --post-refused: "maybe" is neither; give true or false
    run --log /x --pod-cidr 10.0.0.0/33
      --pod-cidr: "10.0.0.0/33" is not a network; write 10.10.0.0/16 or 2001:db8::/32
    run --log /x --node-cidr 10.0.0.1/24
      --node-cidr: "10.0.0.1/24" has bits set after its prefix; write 10.0.0.0/24
    run --log /x --class office
      --class: "office" has no networks; write NAME=CIDR,CIDR
    run --log /x --class a/b=10.0.0.0/8
      --class: class name "a/b": use a lower-case letter, then up to 31 of a-z, 0-9 and _ (internal_pod)
    run --log /x --class external=10.0.0.0/8
      --class: external is always there; use --pod-cidr or --node-cidr, or another name
    run --log /x --class a=10.10.0.0/16
      --class: prefix 10.10.0.0/16 is in class a and in class internal_pod; leave it in one of them (internal_pod has it unless --pod-cidr is given)
    run --log /x --class a=10.9.0.0/16 --classes b=10.9.0.0/16
      --classes: prefix 10.9.0.0/16 is in class a and in class b; leave it in one of them
    run --log /x --class a=10.9.0.0/16 --pod-cidr 10.9.0.0/16
      --class: prefix 10.9.0.0/16 is in class a and in class internal_pod; leave it in one of them
    run --log /x --pod-cidr 10.0.20.0/24
      --pod-cidr: prefix 10.0.20.0/24 is in class cluster_node and in class internal_pod; leave it in one of them (cluster_node has it unless --node-cidr is given)
    run --log /x --node-cidr 10.10.0.0/16
      --node-cidr: prefix 10.10.0.0/16 is in class cluster_node and in class internal_pod; leave it in one of them (internal_pod has it unless --pod-cidr is given)
    run --log /x --class a=10.0.0.0/8 --class a=11.0.0.0/8
      --class: a is given twice; put its networks into one list
    run --log /x --metrics-port 65536
      --metrics-port: "65536" is not a port; give 0 (a free one) to 65535
    run --log /x --metrics-listen localhost
      --metrics-listen: "localhost" is not ADDRESS:PORT; write [::]:9101 or 127.0.0.1:9101
    run --log /x --slack-webhook-url http://example.com
      --slack-webhook-url: would be sent unencrypted; give an https://… address (http://… only to localhost)
    run --log /x --slack-webhook-url example
      --slack-webhook-url: is not a URL; give the https://… address that Slack shows for the webhook
    run --log /x --slack-webhook-url-file /no/such/file
      --slack-webhook-url-file: cannot read /no/such/file: No such file or directory (os error 2); give a readable file
    run --log /x --slack-webhook-url-file DIR/large
      --slack-webhook-url-file: cannot read large: it is larger than 4096 bytes; give a readable file
    run --log /x --slack-webhook-url https://u:S3CRET@host/x
      --slack-webhook-url: holds a user name or password; give the https://… address that Slack shows for the webhook
    run --log /x --slack-icon key
      --slack-icon: write an emoji code (:key:) or an https://… address of a picture
    run --log /x --ca-file /no/such/file
      --ca-file: cannot read /no/such/file: No such file or directory (os error 2); give a readable file
    run --log /x --ca-file DIR/large
      --ca-file: cannot read large: it is larger than 1048576 bytes; give a readable file
    run --log /x --ca-file DIR/webhook
      --ca-file: webhook holds no certificate; give a file with -----BEGIN CERTIFICATE-----
    run --log /x --config /no/such/file
      --config: cannot read /no/such/file: No such file or directory (os error 2); give a TOML file
    run --log /x --config DIR/large
      --config: cannot read large: it is larger than 1048576 bytes; give a TOML file
    run --log /a/x --log /b/x
      --log: two logs are called x; name one with NAME=PATH
    run --log a=/x --log b=/x
      --log: a and b are the same log; give it once
    run --log - --log a=-
      --log: stdin and a are the same log; give it once
    run --log child=/x -- vlmcsd -D
      --log: two logs are called child; name one with NAME=PATH
    run --log a:b=/x
      --log: "a:b" cannot name a log; use 1 to 64 of A-Z a-z 0-9 . _ -
    run --log a=
      --log: "a=" is not a file; give PATH, NAME=PATH or -
    run --log /var/log/
      --log: "/var/log/" is not a file; give PATH, NAME=PATH or -
    test-notify
      --slack-webhook-url: no webhook to send to; give one, best in a file by --slack-webhook-url-file
    replay
      the following required arguments were not provided: <FILE>...
    replay --format xml x
      invalid value 'xml' for '--format <FORMAT>'; [possible values: table, json]
    replay --slack-channel c x
      unexpected argument '--slack-channel' found; `kms-notifier --help` lists what there is
    explain x 0
      invalid value '0' for '<LINE>': 0 is not in 1..18446744073709551615
    explain x
      the following required arguments were not provided: <LINE>
    KMS_NOTIFIER_SLACK_TIMEOUT="5x"
      KMS_NOTIFIER_SLACK_TIMEOUT: "5x" is not a duration; write 10s, 5m, 1h or plain seconds
    DEDUP_WINDOW_SECONDS="an hour"
      DEDUP_WINDOW_SECONDS: "an hour" is not a duration; write 10s, 5m, 1h or plain seconds
    METRICS_PORT="http"
      METRICS_PORT: "http" is not a port; give 0 (a free one) to 65535
    KMS_NOTIFIER_CONFIG="/no/such/file"
      KMS_NOTIFIER_CONFIG: cannot read /no/such/file: No such file or directory (os error 2); give a TOML file
    SLACK_CHANNEL="a\nb"
      SLACK_CHANNEL: give one line of at most 200 characters without control characters
    KMS_NOTIFIER_SLACK_ICON="key"
      KMS_NOTIFIER_SLACK_ICON: write an emoji code (:key:) or an https://… address of a picture
    KMS_NOTIFIER_CLASS="office"
      KMS_NOTIFIER_CLASS: "office" has no networks; write NAME=CIDR,CIDR
    KMS_NOTIFIER_NODE_CIDR="10.10.0.0/16"
      KMS_NOTIFIER_NODE_CIDR: prefix 10.10.0.0/16 is in class cluster_node and in class internal_pod; leave it in one of them (internal_pod has it unless --pod-cidr is given)
    SLACK_WEBHOOK_URL="https://u:S3CRET@host/x"
      SLACK_WEBHOOK_URL: holds a user name or password; give the https://… address that Slack shows for the webhook
    both
      SLACK_WEBHOOK_URL: KMS_NOTIFIER_SLACK_WEBHOOK_URL_FILE is given too; give one
    "slack-timeot = 5"
      slack-timeot in kms.toml: no such key; did you mean slack-timeout?
    "xyzzy = 5"
      xyzzy in kms.toml: no such key; `kms-notifier run --help` lists the keys
    "SLACK-TIMEOUT = 5"
      SLACK-TIMEOUT in kms.toml: no such key; did you mean slack-timeout?
    "config = 'x'"
      config in kms.toml: no such key; `kms-notifier run --help` lists the keys
    "slack-timeout = '5x'"
      slack-timeout in kms.toml: "5x" is not a duration; write 10s, 5m, 1h or plain seconds
    "slack-timeout = ['5s']"
      slack-timeout in kms.toml: wrong type; give text, a number, or true or false
    "slack-timeout = 1.5"
      slack-timeout in kms.toml: wrong type; give text, a number, or true or false
    "slack-icon = 'key'"
      slack-icon in kms.toml: write an emoji code (:key:) or an https://… address of a picture
    "slack-webhook-url = 5"
      slack-webhook-url in kms.toml: wrong type; give text
    "pod-cidr = 5.5"
      pod-cidr in kms.toml: wrong type; give text or a list of texts
    "pod-cidr = ['10.0.0.0/33']"
      pod-cidr in kms.toml: "10.0.0.0/33" is not a network; write 10.10.0.0/16 or 2001:db8::/32
    "log = { a = '/x' }"
      log in kms.toml: wrong type; give text or a list of texts
    "classes = 5.5"
      classes in kms.toml: wrong type; give a table of NAME = ["CIDR", …]
    "[classes]\na = 5.5"
      classes in kms.toml: wrong type; give a table of NAME = ["CIDR", …]
    "[classes]\na = ['10.0.0.0/33']"
      classes in kms.toml: "10.0.0.0/33" is not a network; write 10.10.0.0/16 or 2001:db8::/32
    "[class]\na = 5.5"
      class in kms.toml: wrong type; give a table of NAME = ["CIDR", …]
    "[class]\na = ['10.10.0.0/16']"
      class in kms.toml: prefix 10.10.0.0/16 is in class a and in class internal_pod; leave it in one of them (internal_pod has it unless --pod-cidr is given)
    "format = 'json'"
      format in kms.toml: "json" is not known; give one of auto, plain, cri, docker, syslog
    "pod-cidr = '10.9.0.0/16'\nnode-cidr = '10.9.0.0/16'"
      node-cidr in kms.toml: prefix 10.9.0.0/16 is in class cluster_node and in class internal_pod; leave it in one of them
    "[office]\na = 1"
      office in kms.toml: no such key; `kms-notifier run --help` lists the keys
    "format = 'cri'\ninput-format = 'cri'"
      format in kms.toml: input-format is the same and is given too; give one
    "from = 'end'\nfrom = 'start'"
      --config: kms.toml is not TOML, line 2: duplicate key
    "from = 'end'\n\nlog = ["
      --config: kms.toml is not TOML, line 3: unclosed array, expected `]`
    "#);
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_named() {
    use std::os::unix::ffi::OsStringExt as _;
    let env = |name: &str| (name == "VLMCSD_LOG").then(|| OsString::from_vec(vec![b'/', 0xFF]));
    let stop = load(["kms-notifier", "run"].map(Into::into), &env).unwrap_err();
    assert_eq!(
        stop.to_string(),
        "VLMCSD_LOG: is not UTF-8; give plain text"
    );
}

#[test]
fn commands() {
    let run = config(try_load("run --post-refused --log /x -- vlmcsd -D -e", &[], "").unwrap());
    assert!(run.reading.post_refused);
    let child = Input::Child("vlmcsd".into(), vec!["-D".into(), "-e".into()]);
    assert_eq!(run.logs.last().map(|log| &log.input), Some(&child));

    let loaded = try_load(
        "replay --joined --format json --input-format cri a b.gz -",
        &[],
        "",
    );
    let Command::Replay(replay) = loaded.unwrap().command else {
        panic!()
    };
    assert_eq!(replay.files, ["a", "b.gz", "-"].map(PathBuf::from));
    assert!(replay.joined);
    assert_eq!(replay.format, ReplayFormat::Json);
    assert_eq!(replay.reading.input_format, InputFormat::Cri);

    let env = [("KMS_NOTIFIER_FORMAT", "docker")];
    let Command::Explain(explain) = try_load("explain a 7", &env, "").unwrap().command else {
        panic!()
    };
    assert_eq!((explain.file, explain.line), ("a".into(), 7));
    assert_eq!(explain.reading.input_format, InputFormat::Docker);

    // A replay needs no network: what is wrong about it stops nothing.
    try_load(
        "replay x",
        &[("SLACK_WEBHOOK_URL", "nonsense")],
        "metrics-port = 'x'",
    )
    .unwrap();

    let args = format!("test-notify --slack-webhook-url {WEBHOOK}");
    assert!(matches!(
        try_load(&args, &[], "").unwrap().command,
        Command::TestNotify(_)
    ));
}

#[test]
fn defaults() {
    let loaded = try_load("check-config --log /var/log/vlmcsd.log", &[], "").unwrap();
    insta::assert_snapshot!(loaded.effective.to_string(), @"
    log                        vlmcsd.log=/var/log/vlmcsd.log  flag --log
    state                      -                               default
    from                       end                             default
    first-run                  end                             default
    rotated-glob               {}[.-]*                         default
    rotate-at                  -                               default
    rotate-keep                3                               default
    silence-after              0s                              default
    input-format               auto                            default
    log-timezone               UTC                             default
    max-line                   64KiB                           default
    pod-cidr                   10.10.0.0/16                    default
    node-cidr                  10.0.20.0/24                    default
    classes                    -                               default
    dedup-window               1h                              default
    post-refused               false                           default
    post-max-age               24h                             default
    log-format                 human                           default
    log-level                  info                            default
    slack-webhook-url          -                               default
    ca-file                    -                               default
    slack-channel              -                               default
    slack-username             -                               default
    slack-icon                 -                               default
    slack-timeout              10s                             default
    dedup-store                -                               default
    dedup-store-password-file  -                               default
    dedup-store-ca-file        -                               default
    dedup-store-timeout        1s                              default
    metrics-listen             [::]:9101                       default
    no-page                    false                           default
    ");
}

#[test]
fn the_state_belongs_where_systemd_says() {
    let state = |args: &str, env: &[(&str, &str)], file: &str| {
        let config = config(try_load(&format!("run --log /x {args}"), env, file).unwrap());
        let path = config.state.map(|state| state.path.display().to_string());
        (path.unwrap_or_default(), config.from)
    };
    let systemd = [("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")];
    let resumed = |path: &str| (path.to_owned(), StartFrom::Resume);
    let ended = (String::new(), StartFrom::End);
    assert_eq!(state("", &[], ""), ended);
    assert_eq!(
        state("", &systemd, ""),
        resumed("/var/lib/a/kms-notifier.redb")
    );
    assert_eq!(state("", &systemd, "state = '/b'"), resumed("/b"));
    assert_eq!(state("--state=", &systemd, ""), ended);
    assert_eq!(
        state("--state /a --from start", &[], ""),
        ("/a".into(), StartFrom::Start)
    );
    let reset = config(try_load("run --log /x --state /a --state-reset", &[], "").unwrap());
    assert!(reset.state.unwrap().reset);
}

#[test]
fn dead_letters_are_chosen_by_number_or_all() {
    let request = |args: &str| {
        let args = format!("dead-letters {args} --state /a");
        match try_load(&args, &[], "").unwrap().command {
            Command::DeadLetters(what) => what.request,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(request("list"), Request::List);
    assert_eq!(
        request("retry 7 9"),
        Request::Retry(Selection::Ids(vec![7, 9]))
    );
    assert_eq!(request("drop --all"), Request::Drop(Selection::All));
}

#[test]
fn a_taken_address_is_told_by_its_key() {
    let taken = |args: &str, env: &[(&str, &str)]| {
        let listen = config(try_load(args, env, "").unwrap()).metrics;
        listen
            .error(&std::io::ErrorKind::AddrInUse.into())
            .to_string()
    };
    insta::assert_snapshot!(taken("run --log /x", &[]), @"--metrics-listen: [::]:9101 is in use; stop what listens there, or give another port (0 takes a free one)");
    insta::assert_snapshot!(taken("run --log /x", &[("METRICS_PORT", "80")]), @"METRICS_PORT: [::]:80 is in use; stop what listens there, or give another port (0 takes a free one)");
}

/// Every example loads, and a misspelt key in it fails with its name.
#[test]
fn the_examples() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/config");
    let mut examples = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let loaded = try_load("check-config", &[], &text).unwrap();
        assert_eq!(loaded.warnings, [""; 0]);
        examples += 1;
        for key in RawConfig::keys() {
            let misspelt = if text.contains(&format!("\n{key} = ")) {
                text.replace(&format!("\n{key} = "), &format!("\n{key}x = "))
            } else if text.contains(&format!("\n[{key}]\n")) {
                text.replace(&format!("\n[{key}]\n"), &format!("\n[{key}x]\n"))
            } else {
                continue;
            };
            let error = error("check-config --log /x", &[], &misspelt);
            assert_eq!(
                error,
                format!("{key}x in kms.toml: no such key; did you mean {key}?")
            );
        }
        if path.ends_with("complete.toml") {
            for key in RawConfig::keys() {
                let is_there = ["", "# "].iter().any(|mark| {
                    text.contains(&format!("\n{mark}{key} = "))
                        || text.contains(&format!("\n{mark}[{key}]\n"))
                });
                assert!(is_there, "{key} is missing");
            }
        }
    }
    assert!(examples > 0);
}

#[test]
fn help() {
    let shown = |args: &[&str]| {
        let command = command().term_width(100);
        command
            .try_get_matches_from(args)
            .unwrap_err()
            .render()
            .to_string()
    };
    insta::assert_snapshot!(shown(&["kms-notifier", "run", "--help"]), @r#"
    Follow logs, or run a server and read it; post, count and print what happens

    Usage: kms-notifier run [OPTIONS] [-- <CMD>...]

    Options:
          --config <PATH>  TOML file to read further options from
      -h, --help           Print help

    Reading and deciding:
          --input-format <FORMAT>       How lines are wrapped: auto, plain, cri, docker or syslog
                                        [default: auto] [alias: --format]
          --log-timezone <ZONE>         Time zone of the server's stamps, an IANA name [default: UTC]
          --max-line <SIZE>             Longest line kept whole; the rest of a longer one is cut
                                        [default: 64KiB]
          --pod-cidr <CIDR>             Networks of pods, class internal_pod; repeated or with commas
                                        [default: 10.10.0.0/16]
          --node-cidr <CIDR>            Networks of nodes, class cluster_node; repeated or with commas
                                        [default: 10.0.20.0/24]
          --classes <NAME=CIDR[,CIDR]>  A further source class; repeated [alias: --class]
          --dedup-window <DURATION>     How long the same client and product is not told again; 0 tells
                                        all [default: 1h]
          --post-refused[=<BOOL>]       Post refused requests too [default: false]
          --post-max-age <DURATION>     What happened longer ago is posted in digests only [default:
                                        24h]
          --log-format <FORMAT>         Form of the program's own log on stderr: human or json [default:
                                        human]
          --log-level <LEVEL>           What it logs: error, warn, info, debug, trace or off [default:
                                        info]

    Following and telling:
          --log <[NAME=]PATH>
              A log to follow, `-` for standard input; repeated
          --from <WHERE>
              Where to begin in a file that exists at the start: end, start or resume [default: resume
              with a state, else end]
          --first-run <WHERE>
              The same where nothing is known of an earlier run: end or start [default: end]
          --rotated-glob <GLOB>
              What rotated files are called beside the log; {} is its name [default: {}[.-]*]
          --rotate-at <SIZE>
              Rotate a log that was read and is as large; for servers that reopen it for every line
          --rotate-keep <COUNT>
              How many rotated files to keep then [default: 3]
          --silence-after <DURATION>
              Alert when no line comes for so long; 0 never does [default: 0]
          --state <PATH>
              Database that keeps positions and messages over a restart [default:
              $STATE_DIRECTORY/kms-notifier.redb, else none]
          --dedup-store <URL>
              Redis or Valkey by which several sidecars agree on who tells: redis://… or rediss://…
          --dedup-store-password-file <PATH>
              A file that holds its password
          --dedup-store-ca-file <PATH>
              A file with the authorities that sign its certificate, PEM [default: the public ones]
          --dedup-store-timeout <DURATION>
              Longest wait for its answer [default: 1s]
          --slack-webhook-url <URL>
              Slack incoming webhook; without one, messages go to the log
          --slack-webhook-url-file <PATH>
              A file that holds the webhook's URL
          --ca-file <PATH>
              PEM file of further certificate authorities to trust, beside the public ones
          --slack-channel <NAME>
              Channel to post to [default: the webhook's own]
          --slack-username <NAME>
              Name to post under [default: the webhook's own]
          --slack-icon <ICON>
              Icon to post with, an emoji such as :key: or a URL [default: the webhook's own]
          --slack-timeout <DURATION>
              Longest wait for Slack's answer [default: 10s]
          --metrics-listen <ADDRESS:PORT>
              Where to serve metrics and health [default: [::]:9101, IPv4 too]
          --metrics-port <PORT>
              The same, the port alone; 0 takes a free one [default: 9101]
          --no-page[=<BOOL>]
              Serve no status page beside the metrics [default: false]
          --state-reset
              Remove the state first: positions, unsent messages and who was told

    Arguments:
      [CMD]...  A server to start; its standard output is the log

    Every option below "Reading and deciding" and "Following and telling" but --state-reset can also be
    given as the environment variable KMS_NOTIFIER_SOME_OPTION or as some-option in the TOML file of
    --config; --config itself as a variable only. The command line beats the environment beats the file.
    "#);
    insta::assert_snapshot!(shown(&["kms-notifier", "replay", "--help"]), @r#"
    Read recordings from start to end and print what happened

    Usage: kms-notifier replay [OPTIONS] <FILE>...

    Arguments:
      <FILE>...  Recordings, `.gz` too; `-` is standard input

    Options:
          --joined           The files are pieces of one log, oldest first
          --format <FORMAT>  What to print: table (with a summary) or json (as `run` prints it)
                             [default: table]
          --config <PATH>    TOML file to read further options from
      -h, --help             Print help

    Reading and deciding:
          --input-format <FORMAT>       How lines are wrapped: auto, plain, cri, docker or syslog
                                        [default: auto]
          --log-timezone <ZONE>         Time zone of the server's stamps, an IANA name [default: UTC]
          --max-line <SIZE>             Longest line kept whole; the rest of a longer one is cut
                                        [default: 64KiB]
          --pod-cidr <CIDR>             Networks of pods, class internal_pod; repeated or with commas
                                        [default: 10.10.0.0/16]
          --node-cidr <CIDR>            Networks of nodes, class cluster_node; repeated or with commas
                                        [default: 10.0.20.0/24]
          --classes <NAME=CIDR[,CIDR]>  A further source class; repeated [alias: --class]
          --dedup-window <DURATION>     How long the same client and product is not told again; 0 tells
                                        all [default: 1h]
          --post-refused[=<BOOL>]       Post refused requests too [default: false]
          --post-max-age <DURATION>     What happened longer ago is posted in digests only [default:
                                        24h]
          --log-format <FORMAT>         Form of the program's own log on stderr: human or json [default:
                                        human]
          --log-level <LEVEL>           What it logs: error, warn, info, debug, trace or off [default:
                                        info]

    Every option below "Reading and deciding" can also be given as the environment variable
    KMS_NOTIFIER_SOME_OPTION or as some-option in the TOML file of --config; --config itself as a
    variable only. The command line beats the environment beats the file.
    "#);
    insta::assert_snapshot!(shown(&["kms-notifier", "--help"]), @"
    Follows the log of a KMS server and tells what happened

    Usage: kms-notifier <COMMAND>

    Commands:
      run           Follow logs, or run a server and read it; post, count and print what happens
      replay        Read recordings from start to end and print what happened
      check-config  Check what `run` would be given; print it and where each value came from
      test-notify   Send one message now
      dead-letters  List messages that Slack refused for good, tell them after all, or drop them
      explain       Tell why a line of a log became what it became

    Options:
      -h, --help     Print help
      -V, --version  Print version
    ");
    let stop = load(["kms-notifier", "--version"].map(Into::into), &|_| None).unwrap_err();
    assert!(matches!(stop, Stop::Help(text) if text.starts_with("kms-notifier ")));
}

/// Whoever gives the most of too many is told.
#[test]
fn too_many_networks_and_classes_are_told_by_their_option() {
    let list = |count: u32| {
        let networks: Vec<_> = (0..count)
            .map(|n| format!("172.16.{}.{}", n / 256, n % 256))
            .collect();
        networks.join(",")
    };
    let (few, many) = (list(2), list(1024));
    let error = |args: &str| error(&format!("run --log /x {args}"), &[], "");
    insta::assert_snapshot!(error(&format!("--pod-cidr {many}")), @"--pod-cidr: 3 classes with 1025 prefixes are too many; use at most 64 and 1024");
    insta::assert_snapshot!(error(&format!("--node-cidr {many} --class a={few}")), @"--node-cidr: 4 classes with 1027 prefixes are too many; use at most 64 and 1024");
    insta::assert_snapshot!(error(&format!("--class a={many}")), @"--class: 4 classes with 1026 prefixes are too many; use at most 64 and 1024");
    let classes = |count: u32| {
        let classes: Vec<_> = (0..count)
            .map(|n| format!("--class c{n}=172.16.{n}.0/24"))
            .collect();
        classes.join(" ")
    };
    insta::assert_snapshot!(error(&classes(62)), @"--class: 65 classes with 64 prefixes are too many; use at most 64 and 1024");
    try_load(&format!("run --log /x {}", classes(61)), &[], "").unwrap();
}
