//! A quiet line is split at a ` for `, at the first one that leaves a known name,
//! and a label is always one of the catalogue's names.
#![no_main]

use kms_core::catalog::{known_name, label, longest_known_suffix};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

fuzz_target!(|input: ([u8; 16], &[u8])| {
    const FOR: &[u8] = b" for ";
    let (id, text) = (Uuid::from_bytes(input.0), input.1);
    let split = longest_known_suffix(text);
    let first_known = (0..text.len()).find(|&at| {
        let rest = text[at..].strip_prefix(FOR);
        rest.is_some_and(|rest| known_name(rest).is_some())
    });
    if let Some(at) = first_known {
        assert!(split.is_some_and(|split| split <= at));
    }
    if let Some(at) = split {
        assert!(text[at..].starts_with(FOR));
    }
    if let Ok(name) = str::from_utf8(text) {
        for found in [
            label(Some(name), None),
            label(Some(name), Some(id)),
            label(None, Some(id)),
        ] {
            assert!(found.is_none_or(|found| known_name(found.as_bytes()).is_some()));
        }
    }
});
