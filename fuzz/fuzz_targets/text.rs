//! Cleaned text holds nothing hidden, keeps its bound, and is not changed by
//! cleaning it again.
#![no_main]

use kms_core::text::{clean, is_hidden};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (bound, bytes) = (usize::from(input.0), input.1);
    let once = clean(bytes, bound);
    assert!(!once.contains(is_hidden));
    assert!(once.chars().count() <= bound);
    assert_eq!(clean(once.as_bytes(), bound), once);
});
