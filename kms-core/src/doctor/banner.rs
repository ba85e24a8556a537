//! What speaks, by its first bytes.

use std::fmt;

use crate::text;

/// How much of a line is shown, in characters.
const SHOWN: usize = 60;

/// How many bytes of something binary are shown.
const SHOWN_BYTES: usize = 16;

/// What answered where RPC should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Banner {
    /// A website: its status line, cleaned and cut.
    Http(String),
    /// TLS: an alert or a handshake.
    Tls,
    /// Another protocol that begins with a line of text, cleaned and cut: SSH,
    /// SMTP, FTP.
    Text(String),
    /// Bytes of nothing known, the first of them in hex.
    Binary(String),
}

impl Banner {
    /// Looks at what was received; `None` of nothing.
    #[must_use]
    pub fn of(received: &[u8]) -> Option<Self> {
        if received.is_empty() {
            return None;
        }
        if let [0x15 | 0x16, 3, 0..=4, ..] = received {
            return Some(Self::Tls);
        }
        let line = received.split(|byte| matches!(byte, b'\r' | b'\n')).next();
        let line = line.unwrap_or_default();
        let shown = || text::clean(line, SHOWN).into_owned();
        // Some servers answer nonsense with a page and no status line (HTTP/0.9).
        let page = received
            .get(..SHOWN)
            .unwrap_or(received)
            .to_ascii_lowercase();
        if received.starts_with(b"HTTP/")
            || page.starts_with(b"<!doctype html")
            || page.starts_with(b"<html")
        {
            return Some(Self::Http(shown()));
        }
        let printable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
        if line.len() >= 4 && line.iter().all(printable) {
            return Some(Self::Text(shown()));
        }
        let hex = received.iter().take(SHOWN_BYTES);
        let hex: Vec<String> = hex.map(|byte| format!("{byte:02x}")).collect();
        Some(Self::Binary(hex.join(" ")))
    }
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(line) => write!(f, "HTTP: {line}"),
            Self::Tls => f.write_str("TLS"),
            Self::Text(line) => write!(f, "text: {line}"),
            Self::Binary(bytes) => write!(f, "bytes: {bytes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_bytes_say_who_speaks() {
        let http = |line: &str| Some(Banner::Http(line.to_owned()));
        let text = |line: &str| Some(Banner::Text(line.to_owned()));
        for (received, banner) in [
            (&b""[..], None),
            (
                b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n",
                http("HTTP/1.1 400 Bad Request"),
            ),
            (b"<HTML><body>", http("<HTML><body>")),
            (b"\x15\x03\x01\x00\x02\x02\x46", Some(Banner::Tls)),
            (b"SSH-2.0-OpenSSH_9.6\r\n", text("SSH-2.0-OpenSSH_9.6")),
            (b"220 mail ESMTP", text("220 mail ESMTP")),
            (
                b"\x00\x01\x02\x03",
                Some(Banner::Binary("00 01 02 03".to_owned())),
            ),
            (
                b"HTTP/1.1 \x1b[31m\xff\n",
                http("HTTP/1.1 \u{FFFD}[31m\u{FFFD}"),
            ),
        ] {
            assert_eq!(Banner::of(received), banner, "{received:02x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_short_and_harmless(received: Vec<u8>, http: bool) {
            let head: &[u8] = if http { b"HTTP/" } else { b"" };
            if let Some(banner) = Banner::of(&[head, &received].concat()) {
                let shown = banner.to_string();
                prop_assert!(shown.chars().count() <= SHOWN + 7);
                prop_assert!(!shown.contains(text::is_hidden));
            }
        }
    }
}
