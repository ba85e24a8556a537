//! The JSON that Slack takes, as far as it is used here: every text in it is a
//! [`Text`], and nothing in it is parsed as markup.
//!
//! Slack reads markup, links, mentions and emoji codes in `mrkdwn` text objects
//! and in the top-level `text`. So there are no `mrkdwn` objects at all, only
//! `plain_text` ones with `emoji: false`; and `text`, which shows in
//! notifications only where there are blocks, is written without any word of
//! the client's choosing. In both, Slack asks for `&`, `<` and `>` as entities
//! (docs.slack.dev, "Formatting message text", "Escaping text").

use std::char::REPLACEMENT_CHARACTER;
use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};

/// Most characters of one value; workstation names have at most 65.
const MAX_TEXT: usize = 200;

/// Most characters of an alert's text, which is the program's own.
const MAX_ALERT: usize = 1000;

/// Most UTF-16 units of a `plain_text` object once escaped. Slack's bound is
/// 3,000 for a section's text and 2,000 for one of its fields.
const MAX_SECTION: usize = 2_900;

/// Most fields of a section.
const MAX_FIELDS: usize = 10;

/// What stands where something was cut.
const CUT: &str = "… (cut)";

/// A piece of one line: control, bidi and invisible characters replaced, and
/// cut. Escaped as it is written to JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text(String);

impl Text {
    /// A value, of 200 characters at most.
    pub(super) fn new(raw: &str) -> Self {
        Self::cut(raw, MAX_TEXT)
    }

    /// What an alert says: sentences, of 1,000 characters at most.
    pub(super) fn of_alert(raw: &str) -> Self {
        Self::cut(raw, MAX_ALERT)
    }

    fn cut(raw: &str, longest: usize) -> Self {
        let mut text: String = raw
            .chars()
            .take(longest)
            .map(|c| {
                if is_hidden(c) {
                    REPLACEMENT_CHARACTER
                } else {
                    c
                }
            })
            .collect();
        if raw.chars().nth(longest).is_some() {
            text.push_str(CUT);
        }
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    fn escape_into(&self, out: &mut String) {
        for c in self.0.chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                c => out.push(c),
            }
        }
    }

    fn escaped(&self) -> String {
        let mut out = String::with_capacity(self.0.len());
        self.escape_into(&mut out);
        out
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a character moves the cursor, turns the direction of writing, or is
/// not seen. Events come cleaned; this is the second lock on the same door.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{AD}'
                | '\u{61C}'
                | '\u{180E}'
                | '\u{200B}'..='\u{200F}'
                | '\u{2028}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{FEFF}'
                | '\u{FFF9}'..='\u{FFFB}'
                | '\u{E0000}'..='\u{E007F}'
        )
}

/// A message as Slack takes it. Its `Display` is the same in one line of plain
/// text, for a log.
#[derive(Clone, Debug, Serialize)]
pub struct Payload {
    #[serde(serialize_with = "escaped")]
    text: Text,
    blocks: Vec<Block>,
    // What Slack does of its own accord with `text` and with links, off.
    mrkdwn: bool,
    parse: &'static str,
    link_names: bool,
    unfurl_links: bool,
    unfurl_media: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) channel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) icon_emoji: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) icon_url: Option<String>,
}

fn escaped<S: Serializer>(text: &Text, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text.escaped())
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Header {
        text: PlainText,
    },
    #[serde(rename = "section")]
    Fields {
        fields: Vec<PlainText>,
    },
    Section {
        text: PlainText,
    },
}

/// A `plain_text` object: a label and its value, or lines.
#[derive(Clone, Debug)]
struct PlainText {
    lines: Vec<Text>,
}

impl Serialize for PlainText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for (n, line) in self.lines.iter().enumerate() {
            if n > 0 {
                text.push('\n');
            }
            line.escape_into(&mut text);
        }
        let mut object = serializer.serialize_struct("PlainText", 3)?;
        object.serialize_field("type", "plain_text")?;
        object.serialize_field("text", &text)?;
        object.serialize_field("emoji", &false)?;
        object.end()
    }
}

impl Payload {
    /// A message with this title, and this line for notifications.
    pub(super) fn new(title: &str, notification: &str) -> Self {
        Self {
            text: Text::new(notification),
            blocks: vec![Block::Header {
                text: PlainText {
                    lines: vec![Text::new(title)],
                },
            }],
            mrkdwn: false,
            parse: "none",
            link_names: false,
            unfurl_links: false,
            unfurl_media: false,
            channel: None,
            username: None,
            icon_emoji: None,
            icon_url: None,
        }
    }

    /// Adds labels with their values, in two columns.
    pub(super) fn push_fields(&mut self, fields: &[(&'static str, Text)]) {
        for fields in fields.chunks(MAX_FIELDS) {
            let field = |(label, value): &(&'static str, Text)| PlainText {
                lines: vec![Text::new(label), value.clone()],
            };
            self.blocks.push(Block::Fields {
                fields: fields.iter().map(field).collect(),
            });
        }
    }

    /// Adds lines, in as many sections as they need.
    pub(super) fn push_lines(&mut self, lines: impl IntoIterator<Item = Text>) {
        let mut room = 0;
        for line in lines {
            let size = line.escaped().encode_utf16().count() + 1;
            match self.blocks.last_mut() {
                Some(Block::Section { text }) if size <= room => text.lines.push(line),
                _ => {
                    room = MAX_SECTION;
                    self.blocks.push(Block::Section {
                        text: PlainText { lines: vec![line] },
                    });
                }
            }
            room = room.saturating_sub(size);
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for block in &self.blocks {
            match block {
                Block::Header { text } => write_line(f, &text.lines, separator)?,
                Block::Section { text } => {
                    for line in &text.lines {
                        write_line(f, std::slice::from_ref(line), separator)?;
                    }
                }
                Block::Fields { fields } => {
                    for field in fields {
                        write_line(f, &field.lines, separator)?;
                    }
                }
            }
            separator = "; ";
        }
        Ok(())
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, texts: &[Text], separator: &str) -> fmt::Result {
    f.write_str(separator)?;
    for (n, text) in texts.iter().enumerate() {
        if n > 0 {
            f.write_str(": ")?;
        }
        write!(f, "{text}")?;
    }
    Ok(())
}
