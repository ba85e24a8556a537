//! Messages, from both ends: raw bytes as they are, and raw bytes sealed, so that
//! what lies behind the seal is reached too.
#![no_main]

use kms_core::catalog::Protocol;
use kms_core::lab::LabSuite;
use kms_core::message::envelope::{open_request, open_response, seal_request, seal_response};
use kms_core::message::{BaseRequest, BaseResponse, Version};
use kms_core::text::is_hidden;
use libfuzzer_sys::fuzz_target;

const IV: [u8; 16] = [9; 16];

fuzz_target!(|input: &[u8]| {
    for tolerate_longer in [false, true] {
        if let Ok(request) = open_request(&LabSuite, input, tolerate_longer) {
            request_survives(&request);
        }
    }
    if let Ok(opened) = open_response(&LabSuite, b"", input) {
        response_survives(opened.response);
    }
    let base = input.get(..BaseRequest::LEN).unwrap_or(input);
    if let Ok(mut request) = BaseRequest::decode(base) {
        let name = request.workstation.cleaned();
        assert!(!name.contains(is_hidden) && name.chars().count() <= 64);
        // Every 64-bit time has a text: a failing `Display` would panic here.
        assert!(request.client_time.to_string().len() >= 19);
        for protocol in [Protocol::V4, Protocol::V5, Protocol::V6] {
            request.version = protocol.into();
            request_survives(&request);
        }
    }
    if let Ok(mut response) = BaseResponse::decode(input) {
        for protocol in [Protocol::V4, Protocol::V5, Protocol::V6] {
            response.version = protocol.into();
            response_survives(response.clone());
        }
    }
});

fn request_survives(request: &BaseRequest) {
    let mut out = Vec::new();
    seal_request(&LabSuite, request, &IV, &mut out).expect("the version is known");
    assert_eq!(open_request(&LabSuite, &out, false).as_ref(), Ok(request));
}

fn response_survives(response: BaseResponse) {
    let mut out = Vec::new();
    let v6 = Version::from(Protocol::V6) == response.version;
    seal_response(&LabSuite, b"asked", &response, [7; 8], &IV, &mut out)
        .expect("the version is known");
    let opened = open_response(&LabSuite, b"asked", &out).expect("it was sealed for this request");
    assert_eq!(opened.response, response);
    assert_eq!(opened.hardware_id, v6.then_some([7; 8]));
}
