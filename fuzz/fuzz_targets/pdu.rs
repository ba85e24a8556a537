//! What is read as a PDU and written again reads the same, and nothing makes the
//! framing wait for more than a fragment.
#![no_main]

use kms_core::pdu::{Body, Flags, Frame, HEADER_LEN, MAX_FRAGMENT, Pdu, frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    loop {
        match frame(rest) {
            Ok(Frame::NeedMore { total }) => {
                assert!(total > rest.len() && total <= usize::from(MAX_FRAGMENT));
                return;
            }
            Ok(Frame::Whole { header, body }) => {
                assert_eq!(HEADER_LEN + body.len(), usize::from(header.frag_length));
                if let Ok(pdu) = Pdu::decode(&header, body) {
                    written_reads_the_same(pdu);
                }
                rest = &rest[HEADER_LEN + body.len()..];
            }
            Err(_) => return,
        }
    }
});

fn written_reads_the_same(mut pdu: Pdu<'_>) {
    // Only a request has an object to follow the flag.
    if !matches!(pdu.body, Body::Request(_)) {
        pdu.flags = pdu.flags.without(Flags::OBJECT);
    }
    let mut out = Vec::new();
    // A fault that left out its reserved bytes grows by them; all else shrinks.
    if pdu.encode(&mut out).is_err() {
        return;
    }
    let Ok(Frame::Whole { header, body }) = frame(&out) else {
        panic!("{pdu:?} was written as no PDU");
    };
    assert_eq!(Pdu::decode(&header, body), Ok(pdu));
}
