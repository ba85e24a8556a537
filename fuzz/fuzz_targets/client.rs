//! A client, answered anything: it makes progress, waits for no more than a
//! fragment, and opens nothing that the lab suite did not seal for its request.
#![no_main]

use kms_core::client::{Association, Event, Offer, Step};
use kms_core::lab::LabSuite;
use kms_core::message::envelope::open_response;
use kms_core::pdu::MAX_FRAGMENT;
use kms_core::stub::{Encoding, Reply};
use libfuzzer_sys::fuzz_target;

/// A request in protocol 6 as far as its version, which is what an answer's check
/// field is about.
const REQUEST: [u8; 260] = {
    let mut request = [0; 260];
    request[2] = 6;
    request
};

fuzz_target!(|input: &[u8]| {
    // The choices are in the last byte, so that samples serve as seeds as they are.
    let choices = input.last().copied().unwrap_or_default();
    let wanted = match choices & 1 {
        0 => Encoding::Ndr32,
        _ => Encoding::Ndr64,
    };
    let mut association = Association::new();
    let mut out = Vec::new();
    association.bind(
        match choices & 2 {
            0 => Offer::default(),
            _ => Offer::only(wanted),
        },
        &mut out,
    );
    let mut rest = input;
    let mut altered = false;
    loop {
        let consumed = match association.handle(rest) {
            Ok(Step::NeedMore { total }) => {
                assert!(total > rest.len() && total <= usize::from(MAX_FRAGMENT));
                return;
            }
            Ok(Step::Done { event, consumed }) => {
                if let Event::Reply(Reply::Data(message)) = event {
                    // The suite's checks, over what the peer chose; most fail.
                    let _ = open_response(&LabSuite, &REQUEST, message);
                }
                consumed
            }
            Err(_) => return,
        };
        assert!((1..=rest.len()).contains(&consumed));
        rest = &rest[consumed..];
        let before = out.len();
        if !altered && choices & 4 != 0 {
            altered = true;
            association.alter(wanted, &mut out);
        } else if association.request(wanted, &REQUEST, &mut out).is_err() {
            assert_eq!(out.len(), before, "an error leaves nothing behind");
            return;
        }
        assert!(out.len() > before);
        out.clear();
    }
});
