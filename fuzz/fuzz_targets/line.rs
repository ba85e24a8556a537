//! Any line is classified, and what is said of it was borrowed from its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use notifier::line::{Kind, classify, guid_and_name, number};

fuzz_target!(|input: &[u8]| {
    // Many lines at a time, so that recordings serve as seeds as they are.
    for line in input.split(|&byte| byte == b'\n') {
        let classified = classify(line);
        assert!(line.ends_with(classified.text));
        let prefix = if classified.stamp.is_some() { 21 } else { 0 };
        assert_eq!(line.len(), prefix + classified.text.len());
        assert!(!classified.kind.class().as_str().is_empty());
        if let Kind::Field(_, value) = classified.kind {
            assert!(classified.text.ends_with(value));
            let (guid, name) = guid_and_name(value);
            assert!(guid.len() + name.map_or(0, <[u8]>::len) <= value.len());
            assert!(number(value).is_none() || value.iter().all(u8::is_ascii_digit));
        }
    }
});
