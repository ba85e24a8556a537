use proptest::prelude::*;
use serde_json::json;

use kms_core::text::MARK;

use super::*;

fn of(body: Body<'_>) -> Line {
    let origin = Origin {
        ip: "192.0.2.1".parse().unwrap(),
        time: "2026-01-02T03:04:05.678Z".parse().unwrap(),
    };
    line(body, origin)
}

/// The object behind the prefix, held to be one clean line.
fn read(line: &Line) -> Value {
    assert!(!line.text.contains(kms_core::text::is_hidden), "{line:?}");
    let (prefix, json) = line.text.split_once(' ').unwrap();
    let is_event = matches!(line.outcome, Outcome::Printed | Outcome::Wrapped);
    assert_eq!(prefix, if is_event { "KMSDIAG" } else { "KMSDIAG_ERR" });
    let value: Value = serde_json::from_str(json).unwrap();
    assert_clean(&value);
    assert_eq!(value["_ip"], "192.0.2.1");
    assert_eq!(value["_time"], "2026-01-02T03:04:05.678Z");
    value
}

fn assert_clean(value: &Value) {
    match value {
        Value::String(text) => assert!(!text.contains(kms_core::text::is_hidden), "{text:?}"),
        Value::Array(members) => members.iter().for_each(assert_clean),
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            assert!(!key.contains(kms_core::text::is_hidden), "{key:?}");
            assert_clean(value);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The event as printed, without what the collector adds, and its outcome.
fn printed(body: &str) -> (Value, Outcome, u64) {
    let line = of(Body::Whole(body.as_bytes()));
    let mut value = read(&line);
    let members = value.as_object_mut().unwrap();
    members.remove("_ip");
    members.remove("_time");
    let told = members
        .remove("_cut")
        .map_or(0, |cut| cut.as_u64().unwrap());
    assert_eq!(told, line.cut);
    (value, line.outcome, line.cut)
}

#[test]
fn an_object_is_printed_as_it_came() {
    let line = of(Body::Whole(
        br#" {"step":"activate","ok":true,"n":-1.5,"none":null,"list":[1,{"a":"b"}]} "#,
    ));
    assert_eq!(
        line.text,
        r#"KMSDIAG {"_time":"2026-01-02T03:04:05.678Z","_ip":"192.0.2.1","list":[1,{"a":"b"}],"n":-1.5,"none":null,"ok":true,"step":"activate"}"#
    );
    assert_eq!((line.outcome, line.cut), (Outcome::Printed, 0));
}

#[test]
fn what_is_no_object_is_wrapped() {
    for body in ["null", "[1,\"a\"]", "\"text\"", "7", "true"] {
        let value: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            printed(body),
            (json!({ "_value": value }), Outcome::Wrapped, 0)
        );
    }
}

#[test]
fn the_collectors_keys_are_its_own() {
    for key in [
        "_ip",
        "_time",
        "_cut",
        "_value",
        "-ip",
        " time",
        ".cut",
        "_i\\u0070",
        "",
        // Loki trims white space, of Unicode's too, before it looks at the rest.
        " _ip",
        "_ip ",
        "\\t_time\\r\\n",
        "\u{A0}_ip",
        "_cut\u{3000}",
        "\\u2028_ip",
        "\u{2003}\u{2003}-value",
        " ",
        "\u{A0}\\t",
    ] {
        let body = format!(r#"{{"{key}":"forged","kept":1}}"#);
        let line = of(Body::Whole(body.as_bytes()));
        assert!(!line.text.contains("forged"), "{}", line.text);
        assert_eq!(printed(&body), (json!({"kept":1}), Outcome::Printed, 1));
    }
    let padded = format!("{}_ip", " ".repeat(2 * MAX_KEY));
    let (value, _, cut) = printed(&json!({ padded: "forged" }).to_string());
    assert_eq!((value, cut), (json!({}), 1));
    // A blank key adds nothing before the keys of what it holds.
    for key in ["", " ", "\u{A0}"] {
        let body = json!({ key: {"_ip": "forged", " ": {"time": "forged"}}, "kept": 1 });
        let expected = (json!({"kept":1}), Outcome::Printed, 1);
        assert_eq!(printed(&body.to_string()), expected, "{key:?}");
    }
    // Only the event's own members can be taken for them.
    let (inner, _, cut) = printed(r#"{"a":{"_ip":"theirs"},"_ipx":1,"ip":2,"_":{"ip":3}}"#);
    assert_eq!(
        inner,
        json!({"a":{"_ip":"theirs"},"_ipx":1,"ip":2,"_":{"ip":3}})
    );
    assert_eq!(cut, 0);
}

#[test]
fn broken_json_says_why_and_shows_how_it_begins() {
    let line = of(Body::Whole(b"{\"a\":1,}\n\x1b[31m\xff"));
    assert_eq!(line.outcome, Outcome::Invalid);
    let value = read(&line);
    assert_eq!(value["reason"], "trailing comma at line 1 column 8");
    assert_eq!(value["bytes"], 15);
    assert_eq!(
        value["begins"],
        format!("{{\"a\":1,}}{MARK}{MARK}[31m{MARK}")
    );
    for body in [
        "",
        "{",
        "{} {}",
        "1e999",
        "nan",
        "{\"a\":\"\n\"}",
        "{'a':1}",
    ] {
        assert_eq!(of(Body::Whole(body.as_bytes())).outcome, Outcome::Invalid);
    }
    let deep = "[".repeat(MAX_BODY);
    let value = read(&of(Body::Whole(deep.as_bytes())));
    assert!(value["reason"].as_str().unwrap().contains("recursion"));
    assert_eq!(value["begins"].as_str().unwrap().chars().count(), MAX_SHOWN);
}

#[test]
fn what_did_not_arrive_is_told_too() {
    for (body, outcome, reason) in [
        (Body::Oversize, Outcome::Oversize, "larger than 16384 bytes"),
        (Body::Late, Outcome::Incomplete, "did not arrive in time"),
        (Body::Broken, Outcome::Incomplete, "did not arrive whole"),
    ] {
        let line = of(body);
        assert_eq!(line.outcome, outcome);
        assert_eq!(read(&line)["reason"], reason);
    }
}

#[test]
fn scripts_with_another_encoding_are_heard() {
    let (value, outcome, _) = printed("\u{FEFF}{\"a\":1}");
    assert_eq!((value, outcome), (json!({"a":1}), Outcome::Printed));
    let line = of(Body::Whole(b"{\"city\":\"Z\xfcrich\"}"));
    assert_eq!(read(&line)["city"], format!("Z{MARK}rich"));
}

#[test]
fn hidden_characters_become_marks_in_keys_and_texts_also_when_escaped() {
    let (value, _, cut) =
        printed("{\"a\\u202e\":\"x\\ny\\u0000\\u001b[0m\",\"b\u{202E}\":[\"\u{2066}\u{7f}\"]}");
    let expected = json!({
        format!("a{MARK}"): format!("x{MARK}y{MARK}{MARK}[0m"),
        format!("b{MARK}"): [format!("{MARK}{MARK}")],
    });
    assert_eq!((value, cut), (expected, 0));
    // Two keys that become one: the second is kept, and one counted.
    let (value, _, cut) = printed(r#"{"a\u0001":1,"a\u0002":2}"#);
    assert_eq!((value, cut), (json!({ format!("a{MARK}"): 2 }), 1));
}

#[test]
fn long_texts_and_keys_are_cut_with_a_mark() {
    let (text, key) = ("ä".repeat(MAX_TEXT), "k".repeat(MAX_KEY));
    let (value, _, cut) = printed(&json!({ &key: text }).to_string());
    assert_eq!((value, cut), (json!({ &key: text }), 0));
    let (value, _, cut) = printed(&json!({ format!("{key}k"): format!("{text}ä") }).to_string());
    let (key, text) = ("k".repeat(MAX_KEY - 1), "ä".repeat(MAX_TEXT - 1));
    let expected = json!({ format!("{key}…"): format!("{text}…") });
    assert_eq!((value, cut), (expected, 2));
}

#[test]
fn depth_and_number_are_bounded() {
    let (value, _, cut) = printed(r#"{"1":{"2":{"3":{"4":{"5":1},"l":[[2]]}}},"n":3}"#);
    let expected = json!({"1":{"2":{"3":{"4":{"5":1},"l":["…"]}}},"n":3});
    assert_eq!((value, cut), (expected, 1));
    let (value, _, cut) = printed(r#"[[[[[[7]]]]]]"#);
    assert_eq!((value, cut), (json!({"_value":[[[["…"]]]]}), 1));

    let numbers: Vec<_> = (0..2 * MAX_VALUES).collect();
    let (value, _, cut) = printed(&json!({ "n": numbers }).to_string());
    assert_eq!(value["n"].as_array().unwrap().len(), MAX_VALUES - 1);
    assert_eq!(cut, MAX_VALUES as u64 + 1);
}

/// The labels that Loki's `json` parser makes of a line's members. Whether a blank
/// key before another one adds its `_` differs between versions.
fn add_labels(value: &Value, before: Option<&str>, blank_joins: bool, labels: &mut Vec<String>) {
    let Value::Object(members) = value else {
        labels.extend(before.map(str::to_owned));
        return;
    };
    for (key, value) in members {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let mut label = match before {
            None => String::new(),
            Some("") if !blank_joins => String::new(),
            Some(before) => format!("{before}_"),
        };
        label.extend(key.trim().chars().map(plain));
        add_labels(value, Some(&label), blank_joins, labels);
    }
}

/// JSON, nearly JSON, and anything.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,20}|[\u{0}-\u{1f}\u{202a}-\u{202e}\u{2066}-\u{2069}]{0,5}".prop_map(Value::from),
    ];
    let json = leaf.prop_recursive(8, 400, 40, |inner| {
        let keys = "[ \u{a0}]{0,2}(_ip|_time|_cut|_value|-ip|ip)?[ \t]?|[a-c\u{202e}\n]{0,3}";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..40).prop_map(Value::from),
            prop::collection::btree_map(keys, inner, 0..40)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    let json = json.prop_map(|value| value.to_string().into_bytes());
    let broken = (json.clone(), any::<prop::sample::Index>(), any::<u8>());
    prop_oneof![
        json,
        broken.prop_map(|(mut bytes, at, byte)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        prop::collection::vec(any::<u8>(), 0..300),
    ]
}

proptest! {
    #[test]
    fn any_body_is_one_clean_line_of_json(body in bodies()) {
        let line = of(Body::Whole(&body));
        let value = read(&line);
        // Escapes and numbers grow, within bounds.
        prop_assert!(line.text.len() <= 40 << 10, "{}", line.text.len());
        prop_assert_eq!(line.cut == 0, value.get("_cut").is_none());
        for blank_joins in [false, true] {
            let mut labels = Vec::new();
            add_labels(&value, None, blank_joins, &mut labels);
            for key in ["_ip", "_time", "_cut"] {
                let ours = usize::from(value.get(key).is_some());
                let seen = labels.iter().filter(|label| *label == key).count();
                prop_assert_eq!(seen, ours, "{}: {}", key, &line.text);
            }
        }
    }
}
