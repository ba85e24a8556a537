//! What is read from a stub is written and read the same, in both encodings.
#![no_main]

use kms_core::stub::{Encoding, decode_request, decode_response, encode_request, encode_response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for encoding in [Encoding::Ndr32, Encoding::Ndr64] {
        if let Ok(message) = decode_request(encoding, input) {
            let mut out = Vec::new();
            encode_request(encoding, message, &mut out);
            assert!(out.len() <= input.len());
            assert_eq!(decode_request(encoding, &out), Ok(message));
        }
        if let Ok(reply) = decode_response(encoding, input) {
            let mut out = Vec::new();
            encode_response(encoding, reply, &mut out);
            assert_eq!(decode_response(encoding, &out), Ok(reply));
        }
    }
});
