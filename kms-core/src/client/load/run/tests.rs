//! Loads against the responder on loopback, and against hosts that fail.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::catalog::Protocol;
use crate::client::Offer;
use crate::client::testing::{listen, serve, serve_some};
use crate::message::{FileTime, Version};
use crate::responder::{Policy, Whitelist};

fn settings(to: SocketAddr) -> Settings {
    Settings {
        to,
        from: Vec::new(),
        offer: Offer::default(),
        encoding: None,
        connections: 4,
        requests: 100,
        duration: None,
        rate: None,
        reconnect: false,
        hold: Duration::ZERO,
        probes: 0,
        within: Duration::from_secs(30),
        request: BaseRequest {
            version: Version::from(Protocol::V6),
            virtual_machine: 0,
            license_status: 2,
            remaining_minutes: 0,
            application_id: uuid::Uuid::nil(),
            activation_id: uuid::Uuid::nil(),
            kms_counted_id: uuid::Uuid::nil(),
            client_machine_id: uuid::Uuid::nil(),
            min_clients: 25,
            client_time: FileTime(0),
            previous_client_machine_id: uuid::Uuid::nil(),
            workstation: "LAB".parse().unwrap(),
        },
        seed: 1,
    }
}

async fn report(settings: Settings) -> Report {
    let load = Load::new(settings).unwrap();
    load.run().await;
    load.report()
}

async fn lab() -> SocketAddr {
    listen(|stream| serve(stream, Policy::default())).await
}

#[tokio::test]
async fn a_closed_loop_asks_exactly_as_often_as_told() {
    let report = report(settings(lab().await)).await;
    let expected = Outcomes {
        answered: 100,
        ..Outcomes::default()
    };
    assert_eq!(report.outcomes, expected);
    assert_eq!(report.from_sending, None);
    assert!(report.latency.is_some() && report.elapsed > Duration::ZERO);
}

#[tokio::test]
async fn an_open_loop_with_new_connections_and_probes_beside() {
    let report = report(Settings {
        rate: Some(10_000.0),
        reconnect: true,
        probes: 10,
        from: vec![[127, 0, 0, 2].into(), [127, 0, 0, 3].into()],
        ..settings(lab().await)
    })
    .await;
    let expected = Outcomes {
        answered: 100,
        probes: 10,
        ..Outcomes::default()
    };
    assert_eq!(report.outcomes, expected);
    let (latency, sending) = (report.latency.unwrap(), report.from_sending.unwrap());
    assert!(latency.mean >= sending.mean, "{latency:?} {sending:?}");
}

#[tokio::test]
async fn refusals_are_replies_and_counted_by_code() {
    let policy = Policy {
        whitelist: Whitelist {
            known_only: true,
            volume_only: false,
        },
        ..Policy::default()
    };
    let address = listen(move |stream| serve(stream, policy.clone())).await;
    let report = report(settings(address)).await;
    assert_eq!(
        report.outcomes.refused.get(&HResult(0xC004_F042)),
        Some(&100)
    );
    assert_eq!(report.outcomes.replies(), 100);
}

/// Counts from when a request was due: a host that stalls once delays all that
/// were due meanwhile, and the figures show it.
#[tokio::test]
async fn a_stall_counts_for_all_that_were_due_in_it() {
    let address = listen(|mut stream| async move {
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(serve(theirs, Policy::default()));
        let (mut from_lab, mut to_lab) = tokio::io::split(ours);
        let (mut from_client, mut to_client) = stream.split();
        let up = async {
            let mut request = [0; 512];
            // A bind, then calls, the fifth of which waits.
            for count in 0.. {
                let Ok(read @ 1..) = from_client.read(&mut request).await else {
                    return;
                };
                if count == 5 {
                    sleep(Duration::from_millis(300)).await;
                }
                to_lab.write_all(&request[..read]).await.unwrap();
            }
        };
        let down = tokio::io::copy(&mut from_lab, &mut to_client);
        let _ = tokio::join!(up, down);
    })
    .await;
    let report = report(Settings {
        connections: 1,
        requests: 40,
        rate: Some(100.0),
        ..settings(address)
    })
    .await;
    assert_eq!(report.outcomes.answered, 40);
    // 30 were due in the 300 ms; only one was sent before they were over.
    let (due, sent) = (report.latency.unwrap(), report.from_sending.unwrap());
    assert!(due.p50 > Duration::from_millis(50), "{due:?}");
    assert!(sent.p50 < due.p50, "{sent:?} {due:?}");
}

#[tokio::test]
async fn a_host_that_is_not_there_ends_the_load_soon() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = report(Settings {
        requests: u64::MAX,
        ..settings(address)
    })
    .await;
    let failed = report.outcomes.failed;
    // Each of four tried before the start, and then three times.
    assert_eq!(failed.get(&Failure::Connect), Some(&16));
    assert!(report.first_failure.unwrap().contains("refused"));
}

#[tokio::test]
async fn a_website_is_no_host() {
    let address = listen(|mut stream| async move {
        let mut bind = [0; 160];
        stream.read_exact(&mut bind).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    let report = report(Settings {
        requests: 8,
        ..settings(address)
    })
    .await;
    assert_eq!(report.outcomes.replies(), 0);
    assert_eq!(report.outcomes.failed.get(&Failure::Protocol), Some(&12));
}

#[tokio::test]
async fn what_the_suite_did_not_seal_is_no_answer() {
    let address = listen(|stream| async move {
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(serve(theirs, Policy::default()));
        let (mut from_lab, mut to_lab) = tokio::io::split(ours);
        let (mut from_client, mut to_client) = tokio::io::split(stream);
        let up = tokio::io::copy(&mut from_client, &mut to_lab);
        let down = async {
            let mut answer = [0; 512];
            while let Ok(read @ 1..) = from_lab.read(&mut answer).await {
                // Past the stub's head and the version: inside the seal.
                if read > 200 {
                    answer[100] ^= 1;
                }
                to_client.write_all(&answer[..read]).await.unwrap();
            }
        };
        let _ = tokio::join!(up, down);
    })
    .await;
    let report = report(settings(address)).await;
    assert_eq!(report.outcomes.answered, 0);
    assert_eq!(report.outcomes.failed.get(&Failure::Seal), Some(&100));
}

#[tokio::test]
async fn held_connections_stay_and_those_the_host_drops_are_counted() {
    let closing = listen(|stream| serve_some(stream, Policy::default(), 1)).await;
    let idle = Settings {
        requests: 0,
        hold: Duration::from_millis(50),
        ..settings(lab().await)
    };
    let held = report(idle.clone()).await;
    assert_eq!(held.outcomes, Outcomes::default());
    assert_eq!(held.opened, 4);
    let dropped = report(Settings {
        to: closing,
        hold: Duration::from_secs(600),
        ..idle
    });
    assert_eq!(dropped.await.outcomes.dropped, 4);
}

#[test]
fn machines_have_names_and_ids_of_their_own() {
    let settings = settings(SocketAddr::from(([127, 0, 0, 1], 1)));
    let open = |number| {
        let machine = Machine::new(&settings, number).unwrap();
        envelope::open_request(&LabSuite, &machine.message, false).unwrap()
    };
    let (one, two) = (open(1), open(2));
    assert_eq!(one.workstation.cleaned(), "LAB-1");
    assert_eq!(two.workstation.cleaned(), "LAB-2");
    assert_ne!(one.client_machine_id, two.client_machine_id);
    assert_eq!(one, open(1));
}

#[test]
fn a_name_without_room_for_a_number_stays() {
    let long: WorkstationName = "x".repeat(62).parse().unwrap();
    assert_eq!(numbered(long, 7), long);
}
