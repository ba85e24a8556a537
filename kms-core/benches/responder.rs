//! From a request's bytes to the answer's, without a socket: what
//! `kms-core serve` does between a read and a write, with and without the log's
//! lines. `cargo bench -p kms-core --bench responder`

mod sample;

use std::hint::black_box;
use std::num::NonZeroU32;

use criterion::{Criterion, criterion_group, criterion_main};
use kms_core::lab::LabSuite;
use kms_core::responder::{
    Association, AssociationSettings, Env, Host, Outcome, Policy, Reason, Step,
};
use kms_core::vlmcsd_log::{Detail, LogWriter};

use sample::{IV, PROTOCOLS};

fn fill(bytes: &mut [u8]) {
    bytes.fill(IV[0]);
}

fn host() -> Host {
    Host::new(Policy::default(), Box::new(LabSuite), &mut fill)
}

fn association() -> Association {
    Association::new(AssociationSettings::new(NonZeroU32::MIN, 1688))
}

fn handle(
    association: &mut Association,
    host: &Host,
    bytes: &[u8],
    reply: &mut Vec<u8>,
) -> Outcome {
    let env = Env {
        host,
        now: sample::now(),
        random: &mut fill,
    };
    reply.clear();
    match association.handle(bytes, env, reply) {
        Step::Done(outcome) => outcome,
        Step::NeedMore { .. } => panic!("the sample is whole"),
    }
}

fn bind(c: &mut Criterion) {
    let (host, bytes, mut reply) = (host(), sample::bind(), Vec::new());
    c.bench_function("answer/bind", |b| {
        b.iter(|| handle(&mut association(), &host, black_box(&bytes), &mut reply));
    });
}

fn requests(c: &mut Criterion) {
    let stamp = jiff::civil::date(2026, 3, 14).at(9, 26, 53, 0);
    for (protocol, name) in PROTOCOLS {
        let (host, mut association, mut reply) = (host(), association(), Vec::new());
        handle(&mut association, &host, &sample::bind(), &mut reply);
        let (mut stub, mut bytes) = (Vec::new(), Vec::new());
        let message = sample::message(&sample::request(protocol));
        sample::call(&message, &mut stub, &mut bytes);
        c.bench_function(&format!("answer/{name}"), |b| {
            b.iter(|| {
                let outcome = handle(&mut association, &host, black_box(&bytes), &mut reply);
                assert_eq!(outcome.reason, Reason::Answered);
            });
        });
        for (detail, how) in [(Detail::Quiet, "quiet"), (Detail::Verbose, "verbose")] {
            let mut lines = Vec::new();
            c.bench_function(&format!("answer/{name}/{how} log"), |b| {
                b.iter(|| {
                    let outcome = handle(&mut association, &host, black_box(&bytes), &mut reply);
                    let exchange = outcome.exchange.expect("a request is an exchange");
                    lines.clear();
                    LogWriter::new(&mut lines, Some(stamp)).exchange(&exchange, detail, "default");
                });
            });
        }
    }
}

criterion_group!(responder, bind, requests);
criterion_main!(responder);
