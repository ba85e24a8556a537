//! The log under many writers, a rename and a full disk.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use kms_core::catalog::Protocol;
use kms_core::server::{Log, LogSettings, ResponderSettings, Target};
use kms_core::vlmcsd_log::Detail;

use crate::wire::{bind, call_of, is_answer};
use crate::{DEADLINE, Setup, ask};

const PLAIN: LogSettings = LogSettings {
    stamps: None,
    ids: false,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_of_many_connections_never_mix() {
    const CLIENTS: usize = 40;
    const CALLS: usize = 5;
    let server = Setup {
        responder: ResponderSettings {
            detail: Detail::Verbose,
            ..ResponderSettings::default()
        },
        ids: true,
        ..Setup::default()
    }
    .start()
    .await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let address = server.address;
            tokio::spawn(async move {
                let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                ask(&mut stream, &bind()).await;
                for _ in 0..CALLS {
                    // Forged lines are cleaned, so they cannot begin a block.
                    let name = format!("PC{client}\n<<< Incoming KMS request");
                    assert!(is_answer(
                        &ask(&mut stream, &call_of(Protocol::V6, &name)).await
                    ));
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    server.until_open(0).await;
    let log = server.stop().await;
    let lines: Vec<_> = log.lines().collect();
    let mut blocks = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(mark) = line.strip_prefix("<<< Incoming KMS request") else {
            continue;
        };
        blocks += 1;
        assert!(mark.starts_with(" [c="), "{line}");
        assert!(lines[at + 11].starts_with("Workstation name                : PC"));
        assert!(lines[at + 12].starts_with("N count policy"));
        assert!(
            lines[at + 13].starts_with(">>> Sending response") && lines[at + 13].ends_with(mark)
        );
        assert!(lines[at + 21].starts_with("Activation interval policy      : "));
    }
    assert_eq!(blocks, CLIENTS * CALLS);
    assert_eq!(lines.len(), CLIENTS * (2 + CALLS * 22));
}

#[tokio::test]
async fn a_renamed_file_and_its_successor_hold_every_line_once() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (
        directory.path().join("kms.log"),
        directory.path().join("kms.log.1"),
    );
    let log = Log::open(Target::File(path.clone()), PLAIN).unwrap();
    for _ in 0..100 {
        log.write(None, |log| log.started("before"));
    }
    fs::rename(&path, &old).unwrap();
    log.reopen();
    log.write(None, |log| log.started("after"));
    log.reopen();
    assert!(log.finish(DEADLINE).await);
    // The writer may have seen the new name before it came to what waited.
    let [before, after] = [old, path].map(|path| fs::read_to_string(path).unwrap());
    let all = "before started successfully\n".repeat(100) + "after started successfully\n";
    assert_eq!(before.clone() + &after, all);
    assert!(after.ends_with("after started successfully\n"));
    assert_eq!(log.lost(), 0);
    // What comes after the end is not kept, and nobody is held up by it.
    log.write(None, |log| log.started("late"));
    assert!(log.finish(DEADLINE).await);
}

#[tokio::test]
async fn a_full_disk_loses_lines_and_counts_them() {
    let log = Log::open(Target::File(PathBuf::from("/dev/full")), PLAIN).unwrap();
    for _ in 0..3 {
        log.write(None, |log| {
            log.started("one");
            log.stopped("two");
        });
    }
    assert!(log.finish(DEADLINE).await);
    assert_eq!(log.lost(), 6);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error() {
    let path = PathBuf::from("/nonexistent/kms.log");
    assert!(Log::open(Target::File(path), PLAIN).is_err());
}

#[tokio::test]
async fn stamps_are_local_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kms.log");
    let settings = LogSettings {
        stamps: Some(jiff::tz::TimeZone::fixed(jiff::tz::offset(3))),
        ids: false,
    };
    let log = Log::open(Target::File(path.clone()), settings).unwrap();
    log.write(None, |log| log.started("kms-core"));
    assert!(log.finish(Duration::from_secs(60)).await);
    let line = fs::read_to_string(&path).unwrap();
    let (stamp, text) = line.split_at(21);
    assert_eq!(text, "kms-core started successfully\n");
    let stamp = stamp.strip_suffix(": ").unwrap();
    let local = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", stamp).unwrap();
    // Written a moment ago, three hours east of Greenwich.
    let written = local
        .to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(3)))
        .unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let modified = jiff::Timestamp::try_from(modified).unwrap();
    let apart = modified.duration_since(written.timestamp());
    assert!(apart.as_secs().abs() < 60, "{apart:?}");
}
