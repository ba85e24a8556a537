//! Whom the host answers, and with what count.

use jiff::SignedDuration;
use uuid::{Uuid, uuid};

use super::*;

#[test]
fn vlmcsds_checks_come_in_vlmcsds_order() {
    let strict = Policy {
        whitelist: Whitelist {
            known_only: true,
            volume_only: true,
        },
        check_client_time: true,
        ..Policy::default()
    };
    let retail = uuid!("e1c51358-fe3e-4203-a4a2-3b6b20c9734e");
    let everything_wrong = |request: &mut BaseRequest| {
        request.min_clients = 1001;
        request.client_time = FileTime(0);
        request.kms_counted_id = retail;
        request.application_id = Uuid::nil();
    };
    let mut request = windows_10(Protocol::V6);
    everything_wrong(&mut request);
    let mut connection = Connection::new(strict);
    connection.last(&bind());
    let mut refused = |request: &BaseRequest| {
        let exchange = connection.ask(request);
        assert_eq!(exchange.request.as_ref(), Some(request));
        match exchange.verdict {
            Verdict::Refused(refusal) => Some((refusal, refusal.hresult().0)),
            Verdict::Answered { .. } => None,
        }
    };
    assert_eq!(refused(&request), Some((Refusal::MinClients, INVALID_DATA)));
    request.min_clients = 1000;
    assert_eq!(refused(&request), Some((Refusal::ClientTime, 0xC004_F06C)));
    request.client_time = FileTime::from(now());
    assert_eq!(
        refused(&request),
        Some((Refusal::RetailOrBeta, 0xC004_F042))
    );
    request.kms_counted_id = Uuid::max();
    assert_eq!(
        refused(&request),
        Some((Refusal::UnknownProduct, 0xC004_F042))
    );
    request.kms_counted_id = windows_10(Protocol::V6).kms_counted_id;
    assert_eq!(
        refused(&request),
        Some((Refusal::WrongApplication, 0xC004_F042))
    );
    request.application_id = windows_10(Protocol::V6).application_id;
    assert_eq!(refused(&request), None);
}

#[test]
fn each_level_refuses_its_own() {
    let retail = uuid!("6d646890-3606-461a-86ab-598bb84ace82");
    let beta = uuid!("aa4c7968-b9da-4680-92b6-acb25e2f866c");
    let volume = uuid!("58e2134f-8e11-4d17-9cb2-91069c151148");
    let unknown = Uuid::max();
    for (level, refuses) in [
        (0, [false, false, false, false]),
        (1, [false, true, false, true]),
        (2, [true, true, false, false]),
        (3, [true, true, false, true]),
    ] {
        let whitelist = Whitelist::from_level(level).unwrap();
        let mut connection = Connection::new(Policy {
            whitelist,
            ..Policy::default()
        });
        connection.last(&bind());
        for (class, refused) in [retail, beta, volume, unknown].into_iter().zip(refuses) {
            let mut request = windows_10(Protocol::V5);
            request.kms_counted_id = class;
            let verdict = connection.ask(&request).verdict;
            // The beta is an Office: at level 1 its application gives it away.
            assert_eq!(
                matches!(verdict, Verdict::Refused(_)),
                refused,
                "K{level} {class}"
            );
        }
    }
    assert_eq!(Whitelist::from_level(4), None);
}

#[test]
fn clocks_may_be_four_hours_off() {
    let policy = Policy {
        check_client_time: true,
        ..Policy::default()
    };
    let mut connection = Connection::new(policy);
    connection.last(&bind());
    for (hours, nanoseconds, refused) in [
        (4, 0, false),
        (-4, 0, false),
        (4, 100, true),
        (-4, -100, true),
    ] {
        let off = SignedDuration::from_hours(hours) + SignedDuration::from_nanos(nanoseconds);
        let mut request = windows_10(Protocol::V4);
        request.client_time = FileTime::from(now() + off);
        let verdict = connection.ask(&request).verdict;
        assert_eq!(
            verdict == Verdict::Refused(Refusal::ClientTime),
            refused,
            "{off:?}"
        );
    }
}

fn told(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Answered { response, .. } => response.active_clients,
        Verdict::Refused(refusal) => panic!("{refusal:?}"),
    }
}

#[test]
fn without_lists_every_client_is_told_twice_what_it_needs() {
    let policy = Policy {
        least_clients: 10,
        ..Policy::default()
    };
    for (policy, expected) in [
        (Policy::default(), [1, 2, 10, 50, 2000]),
        (policy, [10, 10, 10, 50, 2000]),
    ] {
        let mut connection = Connection::new(policy);
        connection.last(&bind());
        for (min_clients, expected) in [0, 1, 5, 25, 1000].into_iter().zip(expected) {
            let request = BaseRequest {
                min_clients,
                ..windows_10(Protocol::V6)
            };
            assert_eq!(told(connection.ask(&request).verdict), expected);
        }
    }
}

#[test]
fn with_lists_clients_are_counted_and_a_full_list_refuses() {
    let counting = Counting::Lists { start_empty: true };
    let mut connection = Connection::new(Policy {
        counting,
        ..Policy::default()
    });
    connection.last(&bind());
    let mut ask = |client| {
        let client_machine_id = Uuid::from_u128(client);
        let request = BaseRequest {
            client_machine_id,
            min_clients: 1000,
            ..windows_10(Protocol::V6)
        };
        connection.ask(&request).verdict
    };
    for client in 0..671 {
        assert_eq!(u128::from(told(ask(client))), client + 1);
    }
    assert_eq!(ask(671), Verdict::Refused(Refusal::TooManyClients));
    assert_eq!(Refusal::TooManyClients.hresult(), HResult(0xC004_D104));
    assert_eq!(told(ask(0)), 671);
}
