//! A client understands or names whatever a host says, and waits for no more than a
//! fragment of it.
#![no_main]

use kms_core::client::{Association, Event, Offer, Step};
use kms_core::lab::LabSuite;
use kms_core::message::envelope;
use kms_core::pdu::MAX_FRAGMENT;
use kms_core::stub::{Encoding, Reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut association = Association::new();
    let mut out = Vec::new();
    association.bind(Offer::default(), &mut out);
    let mut rest = input;
    loop {
        match association.handle(rest) {
            Ok(Step::NeedMore { total }) => {
                assert!(total > rest.len() && total <= usize::from(MAX_FRAGMENT));
                return;
            }
            Ok(Step::Done { consumed, event }) => {
                if let Event::Reply(Reply::Data(message)) = event {
                    // Whatever it is, it is read without a panic.
                    let _ = envelope::open_response(&LabSuite, &[0; 260], message);
                }
                rest = &rest[consumed..];
            }
            Err(_) => return,
        }
        let encoding = association.preferred().unwrap_or(Encoding::Ndr32);
        if association.request(encoding, &[0; 260], &mut out).is_err() {
            return;
        }
    }
});
