//! The two texts that a scrape of metrics may get, and which one it asked for.
//!
//! `prometheus-client` writes OpenMetrics only. Its text differs from the
//! classic format 0.0.4 in the comment lines alone: OpenMetrics names a family
//! without the suffix of its samples, knows the type `info`, and has units and
//! an end mark. So the classic text is made from the other one, line by line.

use std::fmt::{self, Write as _};

use prometheus_client::registry::Registry;

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Classic,
    /// OpenMetrics text 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format for the value of an `Accept` header (several headers joined
    /// with commas). OpenMetrics only if the client names it and does not like
    /// plain text better; anything unreadable in the header is passed over.
    #[must_use]
    pub fn negotiate(accept: &str) -> Self {
        let mut open_metrics = None;
        // The best range of each kind that covers text/plain; the most specific kind counts.
        let mut text: [Option<u16>; 3] = [None; 3];
        for range in split_unquoted(accept, ',') {
            let mut parts = split_unquoted(range, ';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut quality = Some(1000);
            let mut known_version = true;
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = parse_quality(value.trim()),
                    "version" => {
                        known_version = matches!(value.trim().trim_matches('"'), "1.0.0" | "0.0.1");
                    }
                    _ => {}
                }
            }
            let Some(quality) = quality else { continue };
            let slot = match media.as_str() {
                "application/openmetrics-text" if known_version => &mut open_metrics,
                "text/plain" => &mut text[0],
                "text/*" => &mut text[1],
                "*/*" => &mut text[2],
                _ => continue,
            };
            *slot = (*slot).max(Some(quality));
        }
        let text = text.into_iter().flatten().next().unwrap_or(0);
        match open_metrics {
            Some(quality) if quality > 0 && quality >= text => Self::OpenMetrics,
            _ => Self::Classic,
        }
    }

    /// All metrics of a registry, in this format.
    ///
    /// # Errors
    /// A metric that cannot be written in it.
    pub fn encode(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut open_metrics = String::new();
        prometheus_client::encoding::text::encode(&mut open_metrics, registry)?;
        Ok(match self {
            Self::OpenMetrics => open_metrics,
            Self::Classic => classic(&open_metrics),
        })
    }

    /// The value of the `Content-Type` header.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Splits at a separator that does not stand in a quoted string.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c| {
        let here = c == separator && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        here
    })
}

/// A weight as RFC 9110 12.4.2 writes it (0 to 1, at most three decimals), in
/// thousandths.
fn parse_quality(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Makes classic text of what `prometheus-client` wrote: HELP and TYPE on the
/// names the samples have, info as a gauge, no units, no end mark.
fn classic(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + open_metrics.len() / 8);
    // HELP stands before TYPE, and only TYPE tells the suffix of both.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|text| text.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, text)) = help.take().filter(|(helped, _)| *helped == name) {
                write!(
                    out,
                    "# HELP {name}{suffix} {text}\n# TYPE {name}{suffix} {kind}\n"
                )
            } else {
                writeln!(out, "# TYPE {name}{suffix} {kind}")
            }
            .expect("a String takes all that is written");
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_accept_header_decides() {
        use Format::{Classic, OpenMetrics};
        for (accept, expected) in [
            ("", Classic),
            ("*/*", Classic),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                Classic,
            ),
            ("application/openmetrics-text", OpenMetrics),
            ("APPLICATION/OpenMetrics-Text; Version=1.0.0", OpenMetrics),
            (
                "application/openmetrics-text;version=\"0.0.1\"",
                OpenMetrics,
            ),
            ("application/openmetrics-text;version=7.0.0", Classic),
            ("application/openmetrics-text, */*", OpenMetrics),
            ("application/openmetrics-text;q=0", Classic),
            (
                "application/openmetrics-text;q=0.000, text/plain;q=0",
                Classic,
            ),
            (
                "application/openmetrics-text;q=0.5,text/plain;q=0.6",
                Classic,
            ),
            (
                "text/plain;q=0.5, application/openmetrics-text ; q=0.75",
                OpenMetrics,
            ),
            ("application/openmetrics-text;q=0.5,*/*", Classic),
            // The most specific range counts for text/plain, not the best.
            (
                "application/openmetrics-text;q=0.5,text/plain;q=0.1,*/*",
                OpenMetrics,
            ),
            ("application/openmetrics-text;q=0.5,text/*;q=0.6", Classic),
            // What cannot be read is passed over.
            ("application/openmetrics-text;q=high", Classic),
            ("application/openmetrics-text;q=1.5", Classic),
            (
                "application/openmetrics-text;q=0.5x, ;;;,=,text/plain;q=",
                Classic,
            ),
            (r#"text/plain;a=",application/openmetrics-text,""#, Classic),
            (
                r#"text/plain;q=0.2;a="\",", application/openmetrics-text;q=0.3"#,
                OpenMetrics,
            ),
            // Prometheus 2 and 3.
            (
                "application/openmetrics-text;version=1.0.0,\
                 application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,\
                 text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept}");
        }
    }

    proptest! {
        #[test]
        fn any_header_gets_an_answer(accept in "[ -~]{0,80}") {
            let format = Format::negotiate(&accept);
            prop_assert!(format == Format::Classic || accept.to_ascii_lowercase().contains("openmetrics"));
        }

        #[test]
        fn a_weight_is_at_most_one(text in "[0-9.]{0,6}") {
            prop_assert!(parse_quality(&text).is_none_or(|q| q <= 1000));
        }
    }

    #[test]
    fn classic_text_has_full_names_and_old_types() {
        let open_metrics = "\
# HELP a_build What it is.
# TYPE a_build info
a_build_info{version=\"1 # TYPE\"} 1
# HELP a_bytes Bytes.
# TYPE a_bytes counter
# UNIT a_bytes bytes
a_bytes_total{log=\"# HELP\\\"\"} 2
# TYPE a_level gauge
a_level 3
# HELP a_seconds Times.
# TYPE a_seconds histogram
a_seconds_sum 1.5
a_seconds_count 1
a_seconds_bucket{le=\"+Inf\"} 1
# HELP a_thing Things.
# TYPE a_thing unknown
a_thing 4
# EOF
";
        let expected = "\
# HELP a_build_info What it is.
# TYPE a_build_info gauge
a_build_info{version=\"1 # TYPE\"} 1
# HELP a_bytes_total Bytes.
# TYPE a_bytes_total counter
a_bytes_total{log=\"# HELP\\\"\"} 2
# TYPE a_level gauge
a_level 3
# HELP a_seconds Times.
# TYPE a_seconds histogram
a_seconds_sum 1.5
a_seconds_count 1
a_seconds_bucket{le=\"+Inf\"} 1
# HELP a_thing Things.
# TYPE a_thing untyped
a_thing 4
";
        assert_eq!(classic(open_metrics), expected);
    }
}
