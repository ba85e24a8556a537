//! The URL of an incoming webhook: a secret, so it is never shown.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;

/// Where to post. Whoever knows this URL can post, so neither `Debug` nor
/// `Display` shows more than its host.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook(Url);

/// Why a text is no webhook URL. It never quotes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// No URL at all.
    #[error("not a URL; write https://host/path as Slack shows it")]
    NoUrl,
    /// Neither https, nor http to this host.
    #[error("must begin with https:// (http:// only to a loopback address)")]
    NotHttps,
    /// A user name or password in the URL.
    #[error("must not hold a user name or password; write https://host/path")]
    Credentials,
}

impl Webhook {
    pub(super) fn url(&self) -> &Url {
        &self.0
    }

    /// Whether the URL is https; else it leads to this host.
    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl FromStr for Webhook {
    type Err = WebhookError;

    /// Reads a URL; white space around it, as a file may have, is left out.
    fn from_str(text: &str) -> Result<Self, WebhookError> {
        let url = Url::parse(text.trim()).map_err(|_| WebhookError::NoUrl)?;
        match url.scheme() {
            "https" => {}
            "http" if url.host_str().is_some_and(is_loopback) => {}
            _ => return Err(WebhookError::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(WebhookError::Credentials);
        }
        Ok(Self(url))
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}/…",
            self.0.scheme(),
            self.0.host_str().unwrap_or_default()
        )
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_anywhere_and_http_to_loopback_only() {
        for good in [
            "https://hooks.slack.com/services/T0/B0/secret",
            " https://slack.example:8443/x\n",
            "http://localhost:8080/x",
            "http://127.9.0.1/x",
            "http://[::1]:9/x",
            "http://[::ffff:127.0.0.1]:9/x",
        ] {
            assert!(good.parse::<Webhook>().is_ok(), "{good}");
        }
        for (bad, error) in [
            ("", WebhookError::NoUrl),
            ("hooks.slack.com/services", WebhookError::NoUrl),
            ("https://", WebhookError::NoUrl),
            ("http://hooks.slack.com/services/T0", WebhookError::NotHttps),
            ("http://127.0.0.1.example/x", WebhookError::NotHttps),
            ("http://localhost.example/x", WebhookError::NotHttps),
            ("http://10.0.0.1/x", WebhookError::NotHttps),
            ("ftp://localhost/x", WebhookError::NotHttps),
            ("file:///etc/passwd", WebhookError::NotHttps),
            ("https://me:pw@hooks.slack.com/x", WebhookError::Credentials),
        ] {
            assert_eq!(bad.parse::<Webhook>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn the_secret_is_never_shown() {
        let webhook: Webhook = "https://hooks.slack.com/services/T0/B0/secret?t=secret#secret"
            .parse()
            .unwrap();
        assert_eq!(webhook.to_string(), "https://hooks.slack.com/…");
        assert_eq!(format!("{webhook:?}"), "Webhook(https://hooks.slack.com/…)");
    }
}
