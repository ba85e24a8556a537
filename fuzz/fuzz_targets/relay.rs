//! A relayed session of anything: how the bytes are cut does not matter to what is
//! made out, and what is kept of them is bounded.
#![no_main]

use kms_core::pdu::MAX_FRAGMENT;
use kms_core::relay::{First, Observer, Sight, first_pdu};
use libfuzzer_sys::fuzz_target;

/// Both directions in turns: a byte says how long the next piece is, which way it
/// goes, and whether it is fed in one.
fn watch(input: &[u8], by_byte: bool) -> Vec<Sight> {
    let mut observer = Observer::default();
    let mut sights = Vec::new();
    let mut rest = input;
    while let Some((head, tail)) = rest.split_first() {
        let len = (usize::from(head >> 1) * 4).min(tail.len());
        let (piece, tail) = tail.split_at(len);
        rest = tail;
        let chunk = if by_byte { 1 } else { len.max(1) };
        for bytes in piece.chunks(chunk) {
            let see = &mut |sight| sights.push(sight);
            match head & 1 {
                0 => observer.client(bytes, see),
                _ => observer.upstream(bytes, see),
            }
        }
    }
    sights
}

fuzz_target!(|input: &[u8]| {
    if let First::NeedMore { total } = first_pdu(input) {
        assert!(total > input.len() && total <= usize::from(MAX_FRAGMENT));
    }
    assert_eq!(watch(input, false), watch(input, true));
});
