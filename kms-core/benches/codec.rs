//! The codec by itself: bytes to structs and back, sealed as the lab does.
//! `cargo bench -p kms-core --bench codec`

mod sample;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use kms_core::lab::LabSuite;
use kms_core::message::{BaseRequest, BaseResponse, envelope};
use kms_core::pdu::{Body, Frame, Pdu, frame};
use kms_core::responder::Policy;
use kms_core::stub::{Encoding, decode_request};

use sample::{IV, PROTOCOLS};

fn pdu(bytes: &[u8]) -> Pdu<'_> {
    let Ok(Frame::Whole { header, body }) = frame(bytes) else {
        panic!("the sample is whole");
    };
    Pdu::decode(&header, body).expect("the sample is a PDU")
}

fn open(bytes: &[u8]) -> BaseRequest {
    let Body::Request(call) = pdu(bytes).body else {
        panic!("the sample is a request");
    };
    let message = decode_request(Encoding::Ndr64, call.stub).expect("the sample has arguments");
    envelope::open_request(&LabSuite, message, false).expect("the sample is sealed")
}

fn bind(c: &mut Criterion) {
    let bytes = sample::bind();
    c.bench_function("bind/decode", |b| b.iter(|| pdu(black_box(&bytes))));
    let decoded = pdu(&bytes);
    let mut out = Vec::new();
    c.bench_function("bind/encode", |b| {
        b.iter(|| {
            out.clear();
            black_box(&decoded).encode(&mut out)
        });
    });
}

fn requests(c: &mut Criterion) {
    for (protocol, name) in PROTOCOLS {
        let request = sample::request(protocol);
        let (mut message, mut stub, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        c.bench_function(&format!("request/{name}/encode"), |b| {
            b.iter(|| {
                message.clear();
                stub.clear();
                bytes.clear();
                envelope::seal_request(&LabSuite, black_box(&request), &IV, &mut message)
                    .expect("the version is known");
                sample::call(&message, &mut stub, &mut bytes);
            });
        });
        c.bench_function(&format!("request/{name}/decode"), |b| {
            b.iter(|| open(black_box(&bytes)));
        });
    }
}

fn responses(c: &mut Criterion) {
    let policy = Policy::default();
    for (protocol, name) in PROTOCOLS {
        let request = sample::request(protocol);
        let asked = sample::message(&request);
        let response = BaseResponse {
            version: request.version,
            epid: policy.epid,
            client_machine_id: request.client_machine_id,
            client_time: request.client_time,
            active_clients: 50,
            activation_interval: policy.activation_interval,
            renewal_interval: policy.renewal_interval,
        };
        let mut sealed = Vec::new();
        c.bench_function(&format!("response/{name}/encode"), |b| {
            b.iter(|| {
                sealed.clear();
                let id = policy.hardware_id;
                envelope::seal_response(
                    &LabSuite,
                    &asked,
                    black_box(&response),
                    id,
                    &IV,
                    &mut sealed,
                )
            });
        });
        c.bench_function(&format!("response/{name}/decode"), |b| {
            b.iter(|| envelope::open_response(&LabSuite, &asked, black_box(&sealed)));
        });
    }
}

criterion_group!(codec, bind, requests, responses);
criterion_main!(codec);
