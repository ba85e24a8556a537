//! What `kms-diag` is told: the same three spellings of every option, the same
//! rules and the same errors as for `kms-notifier`.

use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::error::ContextKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use ipnet::IpNet;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;

use super::error::{ConfigError, Origin, Stop};
use super::layers::{Environment, Layers};
use super::raw::{Raw, Text, keys_of, one_or_many, read_table};
use super::serving::Listen;
use super::value::{Count, LogFormat, address};
use super::{cli, own_networks};

const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 9102);
/// The upper end is the limiter's own.
const RATE: RangeInclusive<Count> = Count(0)..=Count(kms_core::limits::MAX_RATE);

/// All that `kms-diag` needs to know.
#[derive(Debug)]
pub struct Config {
    /// Where to collect.
    pub listen: Listen,
    /// Peers whose `X-Forwarded-For` is believed, in canonical form.
    pub trusted_proxies: Vec<IpNet>,
    /// Events of one source in a minute; `None` takes all.
    pub rate: Option<u32>,
    /// Form of the program's own log.
    pub log_format: LogFormat,
    /// What the program's own log holds.
    pub log_level: LevelFilter,
}

const SPELLINGS: &str = "Every option --some-option can also be given as the environment variable \
KMS_DIAG_SOME_OPTION or as some-option in the TOML file of --config. The command line beats the \
environment beats the file.";

/// Collects diagnostics events over HTTP and prints each as one line for a log collector.
#[derive(Debug, Parser)]
#[command(name = "kms-diag", version, after_help = SPELLINGS, disable_help_subcommand = true, override_usage = "kms-diag [OPTIONS]")]
struct Cli {
    /// TOML file to read further options from
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    raw: RawDiag,
    #[command(subcommand)]
    command: Option<Hidden>,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// Write man pages and shell completions
    #[command(hide = true)]
    Generate(::cli::Generate),
}

/// The command line as clap sees it, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct RawDiag {
    /// Where to collect events and serve metrics and health [default: [::]:9102, IPv4 too]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<Text>,
    /// Proxies whose X-Forwarded-For is believed; repeated or with commas [default: none]
    #[arg(long, value_name = "CIDR")]
    #[serde(deserialize_with = "one_or_many")]
    trusted_proxy: Option<Vec<Text>>,
    /// Events taken from one source in a minute; 0 takes all [default: 30]
    #[arg(long, value_name = "COUNT")]
    rate: Option<Text>,
    /// Form of the program's own log on stderr: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Text>,
    /// What it logs: error, warn, info, debug, trace or off [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<Text>,
}

impl Raw for RawDiag {
    const COMMAND: &str = "kms-diag";
    const PREFIX: &str = "KMS_DIAG_";

    fn keys() -> Vec<String> {
        keys_of(Self::augment_args(clap::Command::new("keys")))
    }

    fn from_table(table: &toml::Table) -> Result<Self, (String, String)> {
        read_table(table, Self::deserialize)
    }
}

/// Reads the command line (the program's name first), the environment and the
/// configuration file.
///
/// # Errors
/// [`Stop::Help`] where help or the version was asked for, [`Stop::Generate`]
/// where man pages were, [`Stop::Config`]
/// where something is wrong.
pub fn load(
    args: impl IntoIterator<Item = OsString>,
    env: Environment<'_>,
) -> Result<Config, Stop> {
    let cli = Cli::try_parse_from(args).map_err(|error| misread(&error))?;
    if let Some(Hidden::Generate(what)) = cli.command {
        return Err(Stop::Generate(what));
    }
    let mut layers = Layers::gather(cli.raw, cli.config.as_deref(), env)?;
    let rate = layers.bounded("rate", |raw| &raw.rate, Count(30), &RATE)?.0;
    Ok(Config {
        listen: listen(&layers)?,
        trusted_proxies: own_networks(&mut layers, "trusted-proxy", |raw| &raw.trusted_proxy, "")?,
        rate: Some(rate).filter(|rate| *rate > 0),
        log_format: layers.value("log-format", |raw| &raw.log_format, LogFormat::Human)?,
        log_level: layers.value("log-level", |raw| &raw.log_level, LevelFilter::INFO)?,
    })
}

/// What is wrong with the command line. To clap an argument too many is an unknown
/// subcommand, of which the help lists none.
fn misread(error: &clap::Error) -> Stop {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(argument) => ConfigError::line(format_args!(
            "unexpected argument '{argument}' found; `kms-diag --help` lists what there is"
        ))
        .into(),
        None => cli::stop(error, "kms-diag"),
    }
}

fn listen(layers: &Layers<RawDiag>) -> Result<Listen, Stop> {
    const KEY: &str = "listen";
    let (address, origin) = match layers.pick(KEY, |raw| &raw.listen) {
        Some((text, origin, _)) => {
            let address = address(&text, DEFAULT_LISTEN.port());
            let address = address.map_err(|what| ConfigError::new(&origin, what))?;
            (address, origin)
        }
        None => (DEFAULT_LISTEN, Origin::Default(KEY)),
    };
    Ok(Listen { address, origin })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::value::Setting as _;
    use super::*;

    /// Loads with these arguments, variables and file.
    fn try_load(args: &[&str], env: &[(&str, &str)], file: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("diag.toml");
        fs::write(&path, file).unwrap();
        let args = ["kms-diag"].iter().chain(args).map(OsString::from);
        let config = ["--config".into(), path.into_os_string()];
        let env = |name: &str| Some(env.iter().find(|(known, _)| *known == name)?.1.into());
        load(args.chain(config), &env).map_err(|stop| stop.to_string())
    }

    fn shown(config: &Config) -> String {
        let proxies: Vec<_> = config
            .trusted_proxies
            .iter()
            .map(ToString::to_string)
            .collect();
        format!(
            "{} {} {:?} {} {}",
            config.listen.address,
            proxies.join(","),
            config.rate,
            config.log_format.show(),
            config.log_level
        )
    }

    #[test]
    fn every_option_has_three_spellings_and_the_command_line_wins() {
        let none = try_load(&[], &[], "").unwrap();
        assert_eq!(shown(&none), "[::]:9102  Some(30) human info");
        let wanted = "127.0.0.1:1 10.0.0.0/8,192.0.2.1/32 None json debug";
        let flags = [
            "--listen=127.0.0.1:1",
            "--trusted-proxy=::ffff:10.0.0.0/104",
            "--trusted-proxy=192.0.2.1",
            "--rate=0",
            "--log-format=json",
            "--log-level=debug",
        ];
        let env = [
            ("KMS_DIAG_LISTEN", "127.0.0.1:1"),
            ("KMS_DIAG_TRUSTED_PROXY", "10.0.0.0/8,192.0.2.1"),
            ("KMS_DIAG_RATE", "0"),
            ("KMS_DIAG_LOG_FORMAT", "json"),
            ("KMS_DIAG_LOG_LEVEL", "debug"),
        ];
        let file = "listen = \"127.0.0.1:1\"\nrate = 0\nlog-format = \"json\"\n\
                    log-level = \"debug\"\ntrusted-proxy = [\"10.0.0.0/8\", \"192.0.2.1\"]";
        let other = [
            ("KMS_DIAG_LISTEN", "127.0.0.1:2"),
            ("KMS_DIAG_RATE", "7"),
            ("KMS_DIAG_LOG_LEVEL", ""),
        ];
        assert_eq!(shown(&try_load(&flags, &[], "").unwrap()), wanted);
        assert_eq!(shown(&try_load(&[], &env, "").unwrap()), wanted);
        assert_eq!(shown(&try_load(&[], &[], file).unwrap()), wanted);
        assert_eq!(shown(&try_load(&flags, &other, file).unwrap()), wanted);
        assert_eq!(
            shown(&try_load(&[], &other, file).unwrap()),
            "127.0.0.1:2 10.0.0.0/8,192.0.2.1/32 Some(7) json debug"
        );
    }

    #[test]
    fn what_is_wrong_is_one_line_with_the_key_and_the_fix() {
        for (args, env, file, wanted) in [
            (
                &["--rate", "1001"] as &[&str],
                ("", ""),
                "",
                "--rate: 1001 is out of bounds; give 0 to 1000",
            ),
            (
                &[],
                ("KMS_DIAG_RATE", "x"),
                "",
                "KMS_DIAG_RATE: \"x\" is not a number",
            ),
            (&[], ("", ""), "listen = \"here\"", "listen in /"),
            (
                &["--listen", "9102"],
                ("", ""),
                "",
                "--listen: \"9102\" is not ADDRESS:PORT; write [::]:9102 or 127.0.0.1:9102",
            ),
            (&[], ("", ""), "lisden = \"here\"", "did you mean listen?"),
            (&[], ("", ""), "zzz = 1", "`kms-diag --help` lists the keys"),
            (
                &["--trusted-proxy", "10.0.0.1/8"],
                ("", ""),
                "",
                "write 10.0.0.0/8",
            ),
            (
                &["--port", "1"],
                ("", ""),
                "",
                "`kms-diag --help` lists what there is",
            ),
            (
                &["more"],
                ("", ""),
                "",
                "unexpected argument 'more' found; `kms-diag --help` lists what there is",
            ),
        ] {
            let error = try_load(args, &[env], file).unwrap_err();
            assert!(error.contains(wanted), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
