//! Any body becomes one line: a known prefix, and one JSON object behind it that
//! has neither control nor bidi nor invisible characters in it, also decoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use notifier::diag::line::{Body, MAX_BODY, Origin, line};
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let origin = Origin {
        ip: "192.0.2.1".parse().expect("an address"),
        time: jiff::Timestamp::UNIX_EPOCH,
    };
    let made = line(Body::Whole(input.get(..MAX_BODY).unwrap_or(input)), origin);
    let (prefix, json) = made.text.split_once(' ').expect("a prefix");
    assert!(matches!(prefix, "KMSDIAG" | "KMSDIAG_ERR"));
    assert!(!json.contains(kms_core::text::is_hidden));
    let value: Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(value["_ip"], "192.0.2.1");
    assert_clean(&value);
});

fn assert_clean(value: &Value) {
    match value {
        Value::String(text) => assert!(!text.contains(kms_core::text::is_hidden)),
        Value::Array(members) => members.iter().for_each(assert_clean),
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            assert!(!key.contains(kms_core::text::is_hidden));
            assert_clean(value);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
