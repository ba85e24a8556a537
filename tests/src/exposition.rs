//! Metrics as Prometheus reads them: both text formats, strictly.

use std::collections::{BTreeMap, BTreeSet};

/// One sample: its name, its labels and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The full name, with `_total` or whatever else belongs to it.
    pub name: String,
    /// Labels, unescaped.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// What a scrape brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition {
    /// The type of each family, by the name in its TYPE line.
    pub types: BTreeMap<String, String>,
    /// Every sample in order.
    pub samples: Vec<Sample>,
}

impl Exposition {
    /// Reads the classic text format (0.0.4).
    ///
    /// # Panics
    /// When it is not well-formed: every sample belongs to the family whose HELP
    /// and TYPE stand above it, no series and no family comes twice.
    #[must_use]
    pub fn classic(text: &str) -> Self {
        Self::read(text, |kind| match kind {
            "counter" | "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("no such type here: {other}"),
        })
    }

    /// Reads OpenMetrics (1.0).
    ///
    /// # Panics
    /// As [`Self::classic`], and when the end mark is missing.
    #[must_use]
    pub fn open_metrics(text: &str) -> Self {
        let text = text
            .strip_suffix("# EOF\n")
            .expect("OpenMetrics ends with its mark");
        Self::read(text, |kind| match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("no such type here: {other}"),
        })
    }

    fn read(text: &str, suffixes: fn(&str) -> &'static [&'static str]) -> Self {
        let mut exposition = Self::default();
        let mut seen = BTreeSet::new();
        let (mut family, mut helped) = (String::new(), String::new());
        assert!(text.ends_with('\n'), "the last line has no end");
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let (keyword, rest) = comment.split_once(' ').expect(line);
                let (name, rest) = rest.split_once(' ').expect(line);
                match keyword {
                    "HELP" => {
                        assert!(!rest.is_empty(), "{line}");
                        helped = name.to_owned();
                    }
                    "TYPE" => {
                        assert_eq!(name, helped, "HELP comes first: {line}");
                        let before = exposition.types.insert(name.into(), rest.into());
                        assert_eq!(before, None, "twice: {line}");
                        family = name.to_owned();
                    }
                    "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                    _ => panic!("an unknown comment: {line}"),
                }
                continue;
            }
            let sample = sample(line);
            let kind = exposition.types.get(&family).expect("TYPE comes first");
            let own = suffixes(kind)
                .iter()
                .any(|suffix| sample.name.strip_suffix(suffix) == Some(&family));
            assert!(own, "not of {family} ({kind}): {line}");
            let series = (sample.name.clone(), sample.labels.clone());
            assert!(seen.insert(series), "twice: {line}");
            exposition.samples.push(sample);
        }
        exposition
    }

    /// The sum of all samples with this name and at least these labels; `None`
    /// where there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&Sample| {
            let label = |name: &str| sample.labels.get(name).map(String::as_str);
            sample.name == name
                && labels
                    .iter()
                    .all(|(name, value)| label(name) == Some(*value))
        };
        let values = self.samples.iter().filter(has).map(|sample| sample.value);
        values.reduce(|sum, value| sum + value)
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let value = value
        .parse()
        .unwrap_or_else(|_| panic!("no number: {line}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
        None => (series, ""),
    };
    let named = |c: char| c.is_ascii_alphanumeric() || c == '_';
    assert!(!name.is_empty() && name.chars().all(named), "{line}");
    let mut sample = Sample {
        name: name.to_owned(),
        labels: BTreeMap::new(),
        value,
    };
    let mut rest = labels;
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").expect(line);
        assert!(!label.is_empty() && label.chars().all(named), "{line}");
        let (value, after) = unquote(quoted).expect(line);
        let before = sample.labels.insert(label.to_owned(), value);
        assert_eq!(before, None, "{label} twice: {line}");
        rest = match after.strip_prefix(',') {
            Some(rest) => rest,
            None => {
                assert!(after.is_empty(), "{line}");
                after
            }
        };
    }
    sample
}

/// A label's value up to its closing quote, and what follows that.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, text.get(at + 1..)?)),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            (_, c) => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::Exposition;

    #[test]
    fn both_formats_are_read() {
        let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1,\\\"\\\\\"} 2\n\
                    a_total{x=\"2\",y=\"\"} 3\n# HELP b B.\n# TYPE b gauge\nb 4.5\n";
        let classic = Exposition::classic(text);
        assert_eq!(classic.sum("a_total", &[]), Some(5.0));
        assert_eq!(classic.sum("a_total", &[("x", "1,\"\\")]), Some(2.0));
        assert_eq!(classic.sum("c", &[]), None);
        let text = text
            .replace("HELP a_total", "HELP a")
            .replace("TYPE a_total", "TYPE a");
        let open = Exposition::open_metrics(&format!("{text}# EOF\n"));
        assert_eq!(open.samples, classic.samples);
    }

    #[test]
    fn what_prometheus_would_refuse_is_refused() {
        let family = "# HELP a A.\n# TYPE a gauge\n";
        for bad in [
            "a 1\n",
            "# TYPE a gauge\na 1\n",
            &format!("{family}b 1\n"),
            &format!("{family}a 1\na 2\n"),
            &format!("{family}a 1\n{family}"),
            &format!("{family}a{{x=\"1}} 1\n"),
            &format!("{family}a one\n"),
            &format!("{family}a 1"),
        ] {
            catch_unwind(|| Exposition::classic(bad)).unwrap_err();
        }
        catch_unwind(|| Exposition::open_metrics(family)).unwrap_err();
    }
}
