//! How each kind of value is written, read and shown.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;
use ipnet::{IpNet, Ipv4Net};
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use tracing::level_filters::LevelFilter;

use crate::sink::slack::{Webhook, WebhookError};
use crate::source::tail::RotatedGlob;

/// A value that one text gives.
pub(super) trait Setting: Sized {
    /// Reads it; the error says what is wrong and what to write instead.
    fn parse(text: &str) -> Result<Self, String>;
    /// Writes it as `check-config` shows it.
    fn show(&self) -> String;
}

/// How the log's lines are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// Recognised from the lines themselves.
    Auto,
    /// As the server writes them.
    Plain,
    /// CRI, as the kubelet keeps them.
    Cri,
    /// Docker's JSON lines.
    Docker,
    /// Syslog, RFC 3164 or 5424.
    Syslog,
}

/// Where reading a file begins that exists at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StartFrom {
    /// At its end: only what is new.
    End,
    /// At its first byte.
    Start,
    /// Where the last run stopped; where none did, as [`FirstRun`] says.
    Resume,
}

/// Where reading a file begins that exists when nothing is known of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FirstRun {
    /// At its end: only what is new.
    End,
    /// At its first byte.
    Start,
}

/// The form of the program's own log on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

fn choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let names: Vec<_> = T::value_variants().iter().map(shown_choice).collect();
        format!("{text:?} is not known; give one of {}", names.join(", "))
    })
}

fn shown_choice<T: ValueEnum>(value: &T) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Setting for InputFormat {
    fn parse(text: &str) -> Result<Self, String> {
        choice(text)
    }
    fn show(&self) -> String {
        shown_choice(self)
    }
}

impl Setting for LogFormat {
    fn parse(text: &str) -> Result<Self, String> {
        choice(text)
    }
    fn show(&self) -> String {
        shown_choice(self)
    }
}

impl Setting for StartFrom {
    fn parse(text: &str) -> Result<Self, String> {
        choice(text)
    }
    fn show(&self) -> String {
        shown_choice(self)
    }
}

impl Setting for FirstRun {
    fn parse(text: &str) -> Result<Self, String> {
        choice(text)
    }
    fn show(&self) -> String {
        shown_choice(self)
    }
}

impl Setting for RotatedGlob {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error| format!("{text:?} finds no rotated files: {error}"))
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

/// A number of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) struct Count(pub(super) u32);

impl Setting for Count {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| format!("{text:?} is not a number; give a whole one"))
    }
    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl Setting for LevelFilter {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!("{text:?} is not known; give one of error, warn, info, debug, trace, off")
        })
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for TimeZone {
    fn parse(text: &str) -> Result<Self, String> {
        Self::get(text).map_err(|_| {
            format!("{text:?} is not a time zone; give an IANA name such as Europe/Berlin or UTC")
        })
    }
    fn show(&self) -> String {
        self.iana_name().unwrap_or_default().to_owned()
    }
}

impl Setting for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(seconds) = text.parse() {
            return Ok(Self::from_secs(seconds));
        }
        let wrong = || format!("{text:?} is not a duration; write 10s, 5m, 1h or plain seconds");
        let signed: SignedDuration = text.parse().map_err(|_| wrong())?;
        signed.try_into().map_err(|_| wrong())
    }
    fn show(&self) -> String {
        SignedDuration::try_from(*self).map_or_else(
            |_| format!("{}s", self.as_secs()),
            |signed| format!("{signed:#}"),
        )
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) struct Size(pub(super) usize);

impl Setting for Size {
    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match text.strip_prefix(digits).unwrap_or_default().trim() {
            "" | "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        let bytes = || digits.parse::<usize>().ok()?.checked_mul(unit?);
        bytes()
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a size; write 64KiB, 1MiB or plain bytes"))
    }
    fn show(&self) -> String {
        match self.0 {
            n if n % (1 << 30) == 0 => format!("{}GiB", n >> 30),
            n if n % (1 << 20) == 0 => format!("{}MiB", n >> 20),
            n if n % (1 << 10) == 0 => format!("{}KiB", n >> 10),
            n => n.to_string(),
        }
    }
}

impl Setting for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(format!("{text:?} is neither; give true or false")),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not ADDRESS:PORT; write [::]:9101 or 127.0.0.1:9101"))
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u16 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a port; give 0 (a free one) to 65535"))
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

/// A line of text for Slack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line(pub(super) String);

impl Line {
    /// Longest text in characters; Slack's own names are shorter.
    const MAX: usize = 200;
}

impl Setting for Line {
    fn parse(text: &str) -> Result<Self, String> {
        if text.chars().count() > Self::MAX || text.chars().any(char::is_control) {
            return Err(format!(
                "give one line of at most {} characters without control characters",
                Self::MAX
            ));
        }
        Ok(Self(text.to_owned()))
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

/// Networks, separated by commas; a bare address is a network of its own.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(network)
        .collect()
}

fn network(text: &str) -> Result<IpNet, String> {
    let network: IpNet = text
        .parse()
        .or_else(|_| text.parse().map(|address: IpAddr| address.into()))
        .map_err(|_| format!("{text:?} is not a network; write 10.10.0.0/16 or 2001:db8::/32"))?;
    if network != network.trunc() {
        return Err(format!(
            "{text:?} has bits set after its prefix; write {}",
            network.trunc()
        ));
    }
    Ok(canonical(network))
}

/// Addresses are looked up in their canonical form, so an IPv4-mapped network
/// would never match as it is written.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else {
        return network;
    };
    let v4 = || {
        let prefix = v6.prefix_len().checked_sub(96)?;
        Ipv4Net::new(v6.addr().to_ipv4_mapped()?, prefix).ok()
    };
    v4().map_or(network, IpNet::V4)
}

/// Whether a name may be a log's: short, and safe in a label, a file name and a
/// terminal.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(is_name_byte)
}

/// `[A-Za-z0-9._-]`
pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// Checks that a URL may be posted to: https, or http to this machine itself.
/// The error never quotes it.
///
/// # Errors
/// What is wrong and what to give.
pub(super) fn check_webhook(url: &str) -> Result<(), &'static str> {
    // The URL parser would drop line breaks and tabs in silence.
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has white space in it; give one URL and nothing else");
    }
    // Whoever posts reads it the same way, so what passes here is not refused there.
    match url.parse::<Webhook>() {
        Ok(_) => Ok(()),
        Err(WebhookError::NoUrl) => {
            Err("is not a URL; give the https:// address that Slack shows for the webhook")
        }
        Err(WebhookError::NotHttps) if url.starts_with("http:") => {
            Err("would be sent unencrypted; give an https:// address \
                 (http:// only to localhost)")
        }
        Err(WebhookError::NotHttps) => {
            Err("is not https; give the https:// address that Slack shows for the webhook")
        }
        Err(WebhookError::Credentials) => Err("holds a user name or password; give the https:// \
                 address that Slack shows for the webhook"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("10s", 10.0),
            ("5m", 300.0),
            ("1h", 3600.0),
            ("3600", 3600.0),
            ("0", 0.0),
        ]
        .into_iter()
        .chain([("1h30m", 5400.0), ("250ms", 0.25), ("2 minutes", 120.0)])
        {
            assert_eq!(
                Duration::parse(text).unwrap(),
                Duration::from_secs_f64(seconds),
                "{text}"
            );
        }
        for text in [
            "",
            "-1",
            "-5s",
            "10x",
            "s",
            "1.5.2s",
            "99999999999999999999",
        ] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64KiB", 65536),
            ("1MiB", 1 << 20),
            ("2 KiB", 2048),
            ("100", 100),
            ("100B", 100),
            ("3GiB", 3 << 30),
        ] {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
        for text in [
            "",
            "KiB",
            "-1",
            "64kb",
            "1.5KiB",
            "99999999999999999999",
            "18014398509481984KiB",
        ] {
            assert!(Size::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_as_the_same(bytes: usize, millis in 0..1_000_000_000_000_u64) {
            prop_assert_eq!(Size::parse(&Size(bytes).show()), Ok(Size(bytes)));
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(Duration::parse(&duration.show()), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,30}") {
            let _ = (Duration::parse(&text), Size::parse(&text), networks(&text));
            let _ = (TimeZone::parse(&text), check_webhook(&text), Line::parse(&text));
        }
    }

    #[test]
    fn network_lists() {
        let parsed = networks(" 10.0.0.0/8, 192.0.2.1 ,2001:db8::/32,, ::1").unwrap();
        let shown: Vec<_> = parsed.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128"]
        );
        assert_eq!(
            networks("::ffff:10.1.0.0/112").unwrap(),
            networks("10.1.0.0/16").unwrap()
        );
        assert_eq!(networks("").unwrap(), []);
        assert_eq!(
            networks("10.1.2.3/16").unwrap_err(),
            "\"10.1.2.3/16\" has bits set after its prefix; write 10.1.0.0/16"
        );
        for wrong in [
            "10.0.0.0/33",
            "10.0.0/8",
            "office",
            "10.0.0.0/8 10.1.0.0/16",
        ] {
            assert!(networks(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn webhooks() {
        for right in [
            "https://hooks.example.com/services/a/b",
            "http://localhost:8080/x",
            "http://127.0.0.9/x",
            "http://[::1]:1/x",
            "http://[::ffff:127.0.0.1]:1/x",
        ] {
            assert_eq!(check_webhook(right), Ok(()), "{right}");
        }
        for wrong in [
            "",
            "hooks.example.com/services",
            "http://hooks.example.com/",
            "http://localhost.example.com/",
            "http://0.0.0.0/",
            "http://127.0.0.1.example.com/",
            "file:///etc/passwd",
            "https://",
            "https://hooks.example.com/\nhttps://other.example.com/",
            "https://user@hooks.example.com/",
            "https://:password@hooks.example.com/",
        ] {
            assert!(check_webhook(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names() {
        for right in ["a", "kms-1.log_X", &"x".repeat(64)] {
            assert!(is_name(right), "{right}");
        }
        for wrong in ["", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
