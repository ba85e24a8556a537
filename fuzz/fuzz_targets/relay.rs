//! A relay's copy of a session bears any bytes from either side, in any pieces, and
//! shows the same of them however they are cut.
#![no_main]

use kms_core::client::{Association, Offer};
use kms_core::pdu::MAX_FRAGMENT;
use kms_core::relay::{First, Observer, Sight, first_pdu};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let First::NeedMore { total } = first_pdu(input) {
        assert!(total > input.len() && total <= usize::from(MAX_FRAGMENT));
    }
    let Some((&way, bytes)) = input.split_first() else {
        return;
    };
    // Who speaks first, and where the other one begins.
    let (from_client, at) = (way & 1 == 1, usize::from(way >> 1) * 8);
    let (first, second) = bytes.split_at(at.min(bytes.len()));
    assert_eq!(
        watch(from_client, first, second, 7),
        watch(from_client, first, second, usize::MAX)
    );
});

fn watch(from_client: bool, first: &[u8], second: &[u8], piece: usize) -> Vec<Sight> {
    let mut seen = Vec::new();
    let mut observer = Observer::default();
    let mut bind = Vec::new();
    Association::new().bind(Offer::default(), &mut bind);
    observer.client(&bind, &mut |sight| seen.push(sight));
    for (from_client, bytes) in [(from_client, first), (!from_client, second)] {
        for bytes in bytes.chunks(piece) {
            let mut see = |sight| seen.push(sight);
            if from_client {
                observer.client(bytes, &mut see);
            } else {
                observer.upstream(bytes, &mut see);
            }
        }
    }
    seen
}
