//! A connection, fed anything: it makes progress, every reply is a PDU, what it
//! holds is bounded, and its log is lines without anything hidden.
#![no_main]

use std::num::NonZeroU32;

use jiff::Timestamp;
use kms_core::lab::LabSuite;
use kms_core::pdu::{Frame, MAX_FRAGMENT, Pdu, frame};
use kms_core::responder::{
    Action, Association, AssociationSettings, Counting, Env, Host, Policy, Step, Whitelist,
};
use kms_core::text::is_hidden;
use kms_core::vlmcsd_log::{Detail, LogWriter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // The policy is in the last byte, so that samples serve as seeds as they are.
    let choices = input.last().copied().unwrap_or_default();
    let mut rest = input;
    let policy = Policy {
        whitelist: Whitelist::from_level(choices & 3).expect("two bits"),
        check_client_time: choices & 4 != 0,
        counting: match choices & 8 {
            0 => Counting::Stateless,
            _ => Counting::Lists { start_empty: true },
        },
        tolerate_longer: choices & 16 != 0,
        ..Policy::default()
    };
    let mut random = |bytes: &mut [u8]| bytes.fill(4);
    let host = Host::new(policy, Box::new(LabSuite), &mut random);
    let mut settings = AssociationSettings::new(NonZeroU32::MIN, 1688);
    settings.ndr64 = choices & 32 != 0;
    settings.btfn = choices & 64 != 0;
    let mut association = Association::new(settings);
    loop {
        let env = Env {
            host: &host,
            now: Timestamp::UNIX_EPOCH,
            random: &mut random,
        };
        let mut reply = Vec::new();
        let outcome = match association.handle(rest, env, &mut reply) {
            Step::NeedMore { total } => {
                assert!(total > rest.len() && total <= usize::from(MAX_FRAGMENT));
                assert!(reply.is_empty());
                return;
            }
            Step::Done(outcome) => outcome,
        };
        assert!((1..=rest.len()).contains(&outcome.consumed));
        rest = &rest[outcome.consumed..];
        let sends = matches!(outcome.action, Action::Send | Action::SendAndClose);
        assert_eq!(sends, !reply.is_empty());
        if sends {
            let Ok(Frame::Whole { header, body }) = frame(&reply) else {
                panic!("no PDU: {reply:?}");
            };
            assert_eq!(usize::from(header.frag_length), reply.len());
            Pdu::decode(&header, body).expect("what is sent can be read");
        }
        if let Some(exchange) = outcome.exchange {
            for detail in [Detail::Quiet, Detail::Verbose] {
                let mut log = Vec::new();
                LogWriter::new(&mut log, None).exchange(&exchange, detail, "command line");
                let log = String::from_utf8(log).expect("a log is UTF-8");
                assert!(!log.contains(|c| c != '\n' && is_hidden(c)));
            }
        }
        if matches!(outcome.action, Action::Close | Action::SendAndClose) {
            return;
        }
    }
});
