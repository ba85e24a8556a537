//! Checks that text from clients can do nothing to whoever reads it.

use serde_json::Value;

/// Whether a character moves the cursor, turns the direction of writing or makes
/// a terminal or log viewer do anything else than show it.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
        )
}

/// Holds the bytes of an output to be UTF-8 lines of text without control and
/// bidi characters.
///
/// # Panics
/// When they are not; the message has the line.
pub fn assert_plain_lines(output: &[u8]) {
    let text = str::from_utf8(output).expect("an output is UTF-8");
    // LF alone ends a line here: `lines` would hide a CR.
    for line in text.split('\n') {
        assert!(!line.contains(is_active), "active characters: {line:?}");
    }
}

/// Reads an output of JSON lines: each is one object, and neither the bytes nor
/// any string in it have control or bidi characters.
///
/// # Panics
/// When that is not so.
#[must_use]
pub fn json_lines(output: &[u8]) -> Vec<Value> {
    assert_plain_lines(output);
    let text = str::from_utf8(output).expect("checked above");
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "the last line has no end"
    );
    let parse = |line: &str| {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON: {e}: {line}"));
        assert!(value.is_object(), "not an object: {line}");
        each_string(&value, &mut |text| {
            assert!(!text.contains(is_active), "active characters: {line}");
        });
        value
    };
    text.lines().map(parse).collect()
}

/// Holds a message for Slack to show as it is: nothing in it is parsed as
/// markup, and what Slack parses anyway (`&`, `<`, `>`) is escaped.
///
/// # Panics
/// When something in it is live.
pub fn assert_inert_message(message: &Value) {
    // Slack parses the top-level text unless told otherwise, and shows it where
    // blocks do not fit, so nothing a client chose may be in it.
    assert_eq!(message["mrkdwn"], false, "{message}");
    assert_eq!(message["parse"], "none", "{message}");
    for switch in ["link_names", "unfurl_links", "unfurl_media"] {
        assert_eq!(message[switch], false, "{switch}: {message}");
    }
    // The classes' own names have underscores, and are the operator's.
    let text = message["text"].as_str().expect("a message has a text");
    let text = text.replace("internal_pod", "").replace("cluster_node", "");
    assert!(
        !text.is_empty() && !text.contains(['`', '*', '_', '~', '\n', '@']),
        "{text:?}"
    );

    let blocks = message["blocks"].as_array().expect("a message has blocks");
    for block in blocks {
        let kind = block["type"].as_str();
        assert!(matches!(kind, Some("header" | "section")), "{block}");
        let fields = block["fields"].as_array().into_iter().flatten();
        let text = block.get("text");
        for field in fields.clone() {
            // A label and a value: a third line would be the client's.
            let text = field["text"].as_str().expect("a field has a text");
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        }
        for object in fields.chain(text) {
            assert_eq!(object["type"], "plain_text", "{object}");
            assert_eq!(object["emoji"], false, "{object}");
        }
    }
    each_string(message, &mut |text| {
        let active = |c: char| c != '\n' && is_active(c);
        assert!(!text.contains(active), "active characters: {text:?}");
        assert!(!text.contains(['<', '>']), "unescaped: {text:?}");
        let entities = ["&amp;", "&lt;", "&gt;"].map(|entity| text.matches(entity).count());
        let ampersands = text.matches('&').count();
        assert_eq!(ampersands, entities.iter().sum::<usize>(), "{text:?}");
    });
}

/// Calls `see` with every string in a value, keys included.
fn each_string(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(values) => values.iter().for_each(|value| each_string(value, see)),
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            see(key);
            each_string(value, see);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use serde_json::{Value, json};

    use super::{assert_inert_message, assert_plain_lines, json_lines};

    fn message(field: &str) -> Value {
        json!({
            "text": "10.0.0.1 activated Windows", "mrkdwn": false, "parse": "none",
            "link_names": false, "unfurl_links": false, "unfurl_media": false,
            "blocks": [{ "type": "section", "fields": [
                { "type": "plain_text", "emoji": false, "text": field }
            ] }],
        })
    }

    #[test]
    fn what_is_inert_passes() {
        assert_plain_lines("a\nя 名 `*<>&\n".as_bytes());
        assert_eq!(json_lines(b"{\"a\":\"\\\\n\"}\n{}\n").len(), 2);
        assert_inert_message(&message("Name\n&lt;!channel&gt; *b* `c` &amp;"));
    }

    #[test]
    fn what_is_live_does_not() {
        for bad in ["a\rb", "a\u{1B}[0m", "\u{202E}", "\u{85}", "\u{7F}"] {
            catch_unwind(|| assert_plain_lines(bad.as_bytes())).unwrap_err();
        }
        for bad in [
            "{\"a\":\"\\n\"}\n",
            "{\"a\":\"\\u202e\"}\n",
            "{}",
            "1\n",
            "{\n",
        ] {
            catch_unwind(|| json_lines(bad.as_bytes())).unwrap_err();
        }
        for bad in ["a\n<!here>", "a\nb & c", "a\nb\nc", "a", "a\n\u{2066}"] {
            catch_unwind(|| assert_inert_message(&message(bad))).unwrap_err();
        }
        let change = |pointer: &str, value: Value| {
            let mut message = message("Name\nPC");
            *message.pointer_mut(pointer).unwrap() = value;
            catch_unwind(|| assert_inert_message(&message)).unwrap_err();
        };
        change("/text", json!("*b* activated Windows"));
        change("/mrkdwn", json!(true));
        change("/blocks/0/fields/0/type", json!("mrkdwn"));
        change("/blocks/0/fields/0/emoji", json!(true));
        change("/blocks/0/type", json!("context"));
    }
}
