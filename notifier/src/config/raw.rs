//! What was typed, before anything is understood: the same fields from the
//! command line, the environment and the file, all optional, all text.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use clap::Args;
use serde::Deserialize;

/// One value as it was typed. A file may also hold a number or a truth value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Scalar")]
pub(super) struct Text(String);

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "wrong type; give text, a number, or true or false"
)]
enum Scalar {
    Text(String),
    Number(i64),
    Truth(bool),
}

impl From<Scalar> for Text {
    fn from(scalar: Scalar) -> Self {
        Self(match scalar {
            Scalar::Text(text) => text,
            Scalar::Number(number) => number.to_string(),
            Scalar::Truth(truth) => truth.to_string(),
        })
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "SecretText")]
pub struct Secret(String);

#[derive(Deserialize)]
#[serde(untagged, expecting = "wrong type; give text")]
enum SecretText {
    Text(String),
}

impl From<SecretText> for Secret {
    fn from(SecretText::Text(text): SecretText) -> Self {
        Self(text)
    }
}

impl Secret {
    /// The text itself. Not for logs, messages or errors.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Several values; a file may also hold a single one.
#[derive(Deserialize)]
#[serde(untagged, expecting = "wrong type; give text or a list of texts")]
enum OneOrMany {
    One(Text),
    Many(Vec<Text>),
}

impl From<OneOrMany> for Vec<Text> {
    fn from(values: OneOrMany) -> Self {
        match values {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        }
    }
}

pub(super) fn one_or_many<'de, D>(deserializer: D) -> Result<Option<Vec<Text>>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    Ok(Some(OneOrMany::deserialize(deserializer)?.into()))
}

/// A file's table of classes becomes what the command line would hold.
fn class_table<'de, D>(deserializer: D) -> Result<Option<Vec<Text>>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "wrong type; give a table of NAME = [\"CIDR\", …]"
    )]
    enum Classes {
        Table(BTreeMap<String, OneOrMany>),
        List(OneOrMany),
    }
    Ok(Some(match Classes::deserialize(deserializer)? {
        Classes::List(list) => list.into(),
        Classes::Table(table) => table
            .into_iter()
            .map(|(name, networks)| {
                let networks: Vec<Text> = networks.into();
                let networks: Vec<&str> = networks.iter().map(Deref::deref).collect();
                Text(format!("{name}={}", networks.join(",")))
            })
            .collect(),
    }))
}

/// How lines are read and what is made of them: the options of every command.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Reading and deciding")]
pub(super) struct RawReading {
    /// How lines are wrapped: auto, plain, cri, docker or syslog [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub(super) input_format: Option<Text>,
    /// Time zone of the server's stamps, an IANA name [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub(super) log_timezone: Option<Text>,
    /// Longest line kept whole; the rest of a longer one is cut [default: 64KiB]
    #[arg(long, value_name = "SIZE")]
    pub(super) max_line: Option<Text>,
    /// Networks of pods, class internal_pod; repeated or with commas [default: 10.10.0.0/16]
    #[arg(long, value_name = "CIDR")]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) pod_cidr: Option<Vec<Text>>,
    /// Networks of nodes, class cluster_node; repeated or with commas [default: 10.0.20.0/24]
    #[arg(long, value_name = "CIDR")]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) node_cidr: Option<Vec<Text>>,
    /// A further source class; repeated
    #[arg(long, visible_alias = "class", value_name = "NAME=CIDR[,CIDR]")]
    #[serde(deserialize_with = "class_table")]
    pub(super) classes: Option<Vec<Text>>,
    /// How long the same client and product is not told again; 0 tells all [default: 1h]
    #[arg(long, value_name = "DURATION")]
    pub(super) dedup_window: Option<Text>,
    /// Post refused requests too [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) post_refused: Option<Text>,
    /// What happened longer ago is posted in digests only [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub(super) post_max_age: Option<Text>,
    /// Form of the program's own log on stderr: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub(super) log_format: Option<Text>,
    /// What it logs: error, warn, info, debug, trace or off [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(super) log_level: Option<Text>,
}

/// The options of the sidecar itself.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Following and telling")]
pub(super) struct RawServing {
    /// A log to follow, `-` for standard input; repeated
    #[arg(long, value_name = "[NAME=]PATH")]
    #[serde(deserialize_with = "one_or_many")]
    pub(super) log: Option<Vec<Text>>,
    /// Where to begin in a file that exists at the start: end, start or resume
    /// [default: resume with a state, else end]
    #[arg(long, value_name = "WHERE")]
    pub(super) from: Option<Text>,
    /// The same where nothing is known of an earlier run: end or start [default: end]
    #[arg(long, value_name = "WHERE")]
    pub(super) first_run: Option<Text>,
    /// What rotated files are called beside the log; {} is its name [default: {}[.-]*]
    #[arg(long, value_name = "GLOB")]
    pub(super) rotated_glob: Option<Text>,
    /// Rotate a log that was read and is as large; for servers that reopen it for every line
    #[arg(long, value_name = "SIZE")]
    pub(super) rotate_at: Option<Text>,
    /// How many rotated files to keep then [default: 3]
    #[arg(long, value_name = "COUNT")]
    pub(super) rotate_keep: Option<Text>,
    /// Alert when no line comes for so long; 0 never does [default: 0]
    #[arg(long, value_name = "DURATION")]
    pub(super) silence_after: Option<Text>,
    /// Database that keeps positions and messages over a restart
    /// [default: $STATE_DIRECTORY/kms-notifier.redb, else none]
    #[arg(long, value_name = "PATH")]
    pub(super) state: Option<Text>,
    /// Redis or Valkey by which several sidecars agree on who tells: redis://… or rediss://…
    #[arg(long, value_name = "URL")]
    pub(super) dedup_store: Option<Secret>,
    /// A file that holds its password
    #[arg(long, value_name = "PATH")]
    pub(super) dedup_store_password_file: Option<Text>,
    /// A file with the authorities that sign its certificate, PEM [default: the public ones]
    #[arg(long, value_name = "PATH")]
    pub(super) dedup_store_ca_file: Option<Text>,
    /// Longest wait for its answer [default: 1s]
    #[arg(long, value_name = "DURATION")]
    pub(super) dedup_store_timeout: Option<Text>,
    /// Slack incoming webhook; without one, messages go to the log
    #[arg(long, value_name = "URL")]
    pub(super) slack_webhook_url: Option<Secret>,
    /// A file that holds the webhook's URL
    #[arg(long, value_name = "PATH")]
    pub(super) slack_webhook_url_file: Option<Text>,
    /// PEM file of further certificate authorities to trust, beside the public ones
    #[arg(long, value_name = "PATH")]
    pub(super) ca_file: Option<Text>,
    /// Channel to post to [default: the webhook's own]
    #[arg(long, value_name = "NAME")]
    pub(super) slack_channel: Option<Text>,
    /// Name to post under [default: the webhook's own]
    #[arg(long, value_name = "NAME")]
    pub(super) slack_username: Option<Text>,
    /// Icon to post with, an emoji such as :key: or a URL [default: the webhook's own]
    #[arg(long, value_name = "ICON")]
    pub(super) slack_icon: Option<Text>,
    /// Longest wait for Slack's answer [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub(super) slack_timeout: Option<Text>,
    /// Where to serve metrics and health [default: [::]:9101, IPv4 too]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) metrics_listen: Option<Text>,
    /// The same, the port alone; 0 takes a free one [default: 9101]
    #[arg(long, value_name = "PORT")]
    pub(super) metrics_port: Option<Text>,
    /// Serve no status page beside the metrics [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) no_page: Option<Text>,
}

/// All that one place (command line, environment or file) said to a program.
pub(super) trait Raw: Default {
    /// The command whose help lists the keys.
    const COMMAND: &str;
    /// What the names of variables begin with.
    const PREFIX: &str;
    /// Further names of variables, each with its key.
    const OTHER_VARIABLES: &[(&str, &str)] = &[];
    /// Further names of keys in the file, each with its key.
    const OTHER_KEYS: &[(&str, &str)] = &[];

    /// Every key, as the command line spells it without dashes and the file as it is.
    fn keys() -> Vec<String>;

    /// Reads a table whose keys are all known. On a type error: the key, and
    /// what is wrong and what to give.
    fn from_table(table: &toml::Table) -> Result<Self, (String, String)>;
}

/// All that one place said to `kms-notifier`.
#[derive(Clone, Debug, Default)]
pub(super) struct RawConfig {
    pub(super) reading: RawReading,
    pub(super) serving: RawServing,
}

impl Raw for RawConfig {
    const COMMAND: &str = "kms-notifier run";
    const PREFIX: &str = "KMS_NOTIFIER_";
    /// The ancestor's, and those of the short flags.
    const OTHER_VARIABLES: &[(&str, &str)] = &[
        ("log", "VLMCSD_LOG"),
        ("slack-webhook-url", "SLACK_WEBHOOK_URL"),
        ("slack-webhook-url-file", "SLACK_WEBHOOK_URL_FILE"),
        ("slack-channel", "SLACK_CHANNEL"),
        ("dedup-window", "DEDUP_WINDOW_SECONDS"),
        ("metrics-port", "METRICS_PORT"),
        ("input-format", "KMS_NOTIFIER_FORMAT"),
        ("classes", "KMS_NOTIFIER_CLASS"),
    ];
    /// The flags `--format` and `--class`.
    const OTHER_KEYS: &[(&str, &str)] = &[("input-format", "format"), ("classes", "class")];

    fn keys() -> Vec<String> {
        keys_of(RawServing::augment_args(RawReading::augment_args(
            clap::Command::new("keys"),
        )))
    }

    fn from_table(table: &toml::Table) -> Result<Self, (String, String)> {
        read_table(table, |table| {
            let reading = RawReading::deserialize(table.clone())?;
            Ok(Self {
                reading,
                serving: RawServing::deserialize(table)?,
            })
        })
    }
}

/// Reads a table, and says which key is to blame where it cannot be read.
pub(super) fn read_table<R>(
    table: &toml::Table,
    read: impl Fn(toml::Table) -> Result<R, toml::de::Error>,
) -> Result<R, (String, String)> {
    read(table.clone()).map_err(|error| {
        // The error knows no key: the culprit is the one that fails alone.
        let culprit = table.iter().find_map(|(key, value)| {
            let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
            Some((key.clone(), read(alone).err()?.message().to_owned()))
        });
        culprit.unwrap_or_else(|| (String::new(), error.message().to_owned()))
    })
}

/// The options of a command that are keys.
pub(super) fn keys_of(command: clap::Command) -> Vec<String> {
    command
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .map(str::to_owned)
        .collect()
}
