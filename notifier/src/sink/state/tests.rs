use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::control::{Control, Letter, Reply, Request, answer, ask};
use super::database::rows as table;
use super::*;
use crate::policy::rows::Table;
use crate::policy::testing::{activation, at};
use crate::policy::{Outcome, Selection};
use crate::source::tail::{FileId, Mark, Print};

const PRINT: Print = Print {
    length: 4,
    hash: [3; 16],
};

fn reopen(path: &Path) -> Result<Opened, OpenError> {
    open(path, false, &Settings::default(), 1, &["kms".into()])
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    (directory, path)
}

fn position(offset: u64) -> SavedLog {
    SavedLog {
        marks: vec![Mark {
            file: FileId {
                device: 1,
                inode: 2,
            },
            offset,
            head: PRINT,
            trail: PRINT,
            seen_until: None,
        }],
        ..SavedLog::default()
    }
}

/// Decides about one event and saves.
fn save(opened: &mut Opened, ip: &str) -> Saved {
    let mut event = activation(ip, "Office 2019");
    opened.policy.handle_event(&mut event, at(0));
    opened.store.handle_log("kms".into(), position(7).encode());
    opened.store.save(&mut opened.policy, at(0))
}

#[test]
fn what_was_saved_is_there_again() {
    let (_directory, path) = place();
    let mut opened = reopen(&path).unwrap();
    assert!(opened.logs.is_empty() && !opened.store.is_failing());
    assert_eq!(save(&mut opened, "10.0.0.1"), Saved::Written);
    assert_eq!(opened.store.save(&mut opened.policy, at(0)), Saved::Nothing);
    // Decided and not saved: as if it was never read.
    let mut lost = activation("10.0.0.2", "Office 2019");
    opened.policy.handle_event(&mut lost, at(0));
    drop(opened);
    let opened = reopen(&path).unwrap();
    assert_eq!(opened.logs, [("kms".to_owned(), position(7))].into());
    assert_eq!(opened.policy.unsent_events(), 1);
    assert_eq!(opened.store.set_aside_count(), 0);
}

/// What is in the file at this version; the rows' layouts are pinned where they
/// are written. A difference needs a new [`SCHEMA`] and a way from the old one.
#[test]
fn the_tables_of_version_1() {
    assert_eq!(SCHEMA, 1);
    let (_directory, path) = place();
    save(&mut reopen(&path).unwrap(), "10.0.0.1");
    let database = redb::Database::open(&path).unwrap();
    let transaction = redb::ReadableDatabase::begin_read(&database).unwrap();
    let mut tables: Vec<String> = transaction
        .list_tables()
        .unwrap()
        .map(|table| redb::TableHandle::name(&table).to_owned())
        .collect();
    tables.sort();
    assert_eq!(
        tables,
        [
            "dead_letters",
            "known",
            "logs",
            "meta",
            "outbox",
            "rest",
            "watches",
            "window"
        ]
    );
}

#[test]
fn a_file_of_before_there_were_watches_is_taken_over() {
    let (_directory, path) = place();
    let mut opened = reopen(&path).unwrap();
    let watch = Watch::new(None, at(0));
    opened.store.handle_watch("kms".into(), watch.encode());
    opened.store.handle_watch("other".into(), vec![0xff]);
    assert_eq!(save(&mut opened, "10.0.0.1"), Saved::Written);
    drop(opened);
    let opened = reopen(&path).unwrap();
    assert_eq!(opened.watches.keys().collect::<Vec<_>>(), ["kms"]);
    drop(opened);

    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&str, &[u8]>::new("watches");
    assert!(transaction.delete_table(table).unwrap());
    transaction.commit().unwrap();
    drop(database);
    let opened = reopen(&path).unwrap();
    assert!(opened.watches.is_empty());
    assert_eq!((opened.store.set_aside_count(), opened.logs.len()), (0, 1));
}

fn write_schema(path: &Path, version: u64) {
    let database = redb::Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(redb::TableDefinition::<&str, u64>::new("meta"))
        .unwrap()
        .insert("schema", version)
        .unwrap();
    transaction.commit().unwrap();
}

#[test]
fn a_newer_schema_stops_with_a_way_out() {
    let (_directory, path) = place();
    write_schema(&path, SCHEMA + 1);
    let error = reopen(&path).unwrap_err().to_string();
    assert!(
        error.contains("layout 2") && error.contains("--state-reset"),
        "{error}"
    );
    assert!(path.exists());
    let opened = open(&path, true, &Settings::default(), 1, &[]).unwrap();
    assert!(!opened.store.is_failing() && opened.policy.is_empty());
}

#[test]
fn one_that_is_in_use_is_left_alone() {
    let (_directory, path) = place();
    let mut first = reopen(&path).unwrap();
    for reset in [false, true] {
        let second = open(&path, reset, &Settings::default(), 1, &[]);
        assert!(matches!(second, Err(OpenError::InUse(_))));
    }
    assert_eq!(save(&mut first, "10.0.0.1"), Saved::Written);
    drop(first);
    assert_eq!(reopen(&path).unwrap().policy.unsent_events(), 1);
}

#[test]
fn a_directory_that_is_not_there_is_a_mistake() {
    let (directory, _) = place();
    let error = reopen(&directory.path().join("no/state.redb")).unwrap_err();
    assert!(matches!(error, OpenError::NoPlace { .. }), "{error}");
    let error = reopen(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::NoPlace { .. }), "{error}");
}

#[test]
fn an_unreadable_one_is_set_aside() {
    let (_directory, path) = place();
    let check = |what: &str| {
        let mut opened = reopen(&path).unwrap();
        assert_eq!(opened.store.set_aside_count(), 1, "{what}");
        assert!(opened.policy.is_empty() && opened.logs.is_empty(), "{what}");
        assert_eq!(save(&mut opened, "10.0.0.1"), Saved::Written, "{what}");
    };
    std::fs::write(&path, [b'x'; 100_000]).unwrap();
    check("another file");
    let aside = path.with_extension("redb.unreadable");
    assert_eq!(std::fs::read(aside).unwrap(), [b'x'; 100_000]);

    write_schema(&path.with_extension("other"), 0);
    std::fs::rename(path.with_extension("other"), &path).unwrap();
    check("another schema");

    for table in [
        table(Table::Rest),
        table(Table::Window),
        table(Table::Outbox),
    ] {
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut rows = transaction.open_table(table).unwrap();
        rows.insert(&b"key"[..], &b"\xff\xff"[..]).unwrap();
        drop(rows);
        transaction.commit().unwrap();
        drop(database);
        check("a row that makes no sense");
    }
}

/// The library writes the magic number last, and nothing before it is of use.
#[test]
fn one_that_was_never_finished_is_a_new_one() {
    let (_directory, path) = place();
    let aside = path.with_extension("redb.unreadable");
    std::fs::write(&aside, "an earlier one").unwrap();
    save(&mut reopen(&path).unwrap(), "10.0.0.1");
    let mut begun = std::fs::read(&path).unwrap();
    begun[..9].fill(0);
    for unfinished in [&[][..], &[0; 5], &[0; 1 << 20], &begun] {
        std::fs::write(&path, unfinished).unwrap();
        let mut opened = reopen(&path).unwrap();
        assert_eq!(opened.store.set_aside_count(), 0, "{}", unfinished.len());
        assert_eq!(save(&mut opened, "10.0.0.1"), Saved::Written);
        drop(opened);
        assert_eq!(reopen(&path).unwrap().policy.unsent_events(), 1);
    }
    assert_eq!(std::fs::read(&aside).unwrap(), b"an earlier one");
}

#[test]
fn a_place_that_cannot_be_written_stops_nothing_and_heals() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    let path = link.join("state.redb");
    // Nobody makes files there, not even root.
    symlink("/sys/kernel", &link).unwrap();
    let mut opened = reopen(&path).unwrap();
    assert!(opened.store.is_failing());
    assert_eq!(save(&mut opened, "10.0.0.1"), Saved::Failed);
    assert_eq!(save(&mut opened, "10.0.0.2"), Saved::Nothing, "not at once");
    std::fs::remove_file(&link).unwrap();
    symlink(directory.path(), &link).unwrap();
    let retry = opened.store.retry_at().unwrap();
    assert!(retry > at(0));
    assert_eq!(opened.store.save(&mut opened.policy, retry), Saved::Written);
    assert_eq!(opened.store.retry_at(), None);
    assert!(!opened.store.is_failing());
    drop(opened);
    let opened = reopen(&path).unwrap();
    assert_eq!(opened.policy.unsent_events(), 2);
    assert_eq!(opened.logs["kms"], position(7));
}

#[test]
fn whoever_follows_nothing_makes_it_forget_nothing() {
    let (_directory, path) = place();
    let names = |set: u8| -> Vec<Arc<str>> {
        let one = |n| format!("{set}-{n:02}").into();
        (0..MAX_OTHER_LOGS).map(one).collect()
    };
    let settings = Settings::default();
    for set in 0..2 {
        let mut opened = open(&path, false, &settings, 1, &names(set)).unwrap();
        for log in names(set) {
            opened.store.handle_log(log, position(7).encode());
        }
        opened.store.save(&mut opened.policy, at(0));
    }
    drop(open(&path, false, &settings, 1, &[]).unwrap());
    for set in 0..2 {
        let opened = open(&path, false, &settings, 1, &names(set)).unwrap();
        assert_eq!(opened.logs.len(), MAX_OTHER_LOGS, "{set}");
    }
    // Those that are followed push out what is beyond the bound.
    drop(open(&path, false, &settings, 1, &["other".into()]).unwrap());
    let opened = open(&path, false, &settings, 1, &names(1)).unwrap();
    assert!(opened.logs.is_empty());
}

#[test]
fn the_file_stays_small() {
    let (_directory, path) = place();
    let mut opened = reopen(&path).unwrap();
    let mut largest = 0;
    for n in 0..2 * LOOK_EVERY {
        for host in 0..40 {
            let ip = format!("10.{}.{}.{host}", n / 250, n % 250);
            let mut event = activation(&ip, "Office 2019");
            opened.policy.handle_event(&mut event, at(0));
        }
        opened.store.handle_log("kms".into(), vec![0; 100_000]);
        assert_eq!(opened.store.save(&mut opened.policy, at(0)), Saved::Written);
        largest = largest.max(opened.store.size());
    }
    assert!(largest < 64 << 20, "{largest}");
    let delivery = opened.policy.poll_delivery(at(1000)).unwrap();
    opened
        .policy
        .handle_outcome(delivery.id, Outcome::Accepted, at(1000));
    assert_eq!(
        opened.store.save(&mut opened.policy, at(1000)),
        Saved::Written
    );
    opened.store.handle_log("kms".into(), position(1).encode());
    opened.store.save(&mut opened.policy, at(1000));
    drop(opened);
    let opened = reopen(&path).unwrap();
    assert!(opened.store.size() < 4 << 20, "{}", opened.store.size());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However a file was damaged, it is read as it was or set aside; nothing
    /// panics and nothing is lost without a word.
    #[test]
    fn damage_is_noticed_or_harmless(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (_directory, path) = place();
        let mut opened = reopen(&path).unwrap();
        save(&mut opened, "10.0.0.1");
        drop(opened);
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, &bytes).unwrap();
        match reopen(&path) {
            Ok(mut opened) => prop_assert_eq!(save(&mut opened, "10.0.0.9"), Saved::Written),
            Err(error) => prop_assert!(matches!(error, OpenError::Newer { .. }), "{}", error),
        }
    }
}

/// What docs/performance.md says of a night without Slack. The times are of whoever
/// runs it: `cargo test --release -p notifier a_night_without_slack -- --nocapture`.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement says what it measured"
)]
fn a_night_without_slack_is_a_small_file() {
    let (_directory, path) = place();
    let mut opened = reopen(&path).unwrap();
    let (mut now, mut largest, mut times) = (at(1_000_000), 0, Vec::new());
    for n in 0..5000_u64 {
        let client = n % 300;
        let ip = format!("10.10.{}.{}", client / 200, client % 200);
        let mut event = activation(&ip, "Office 2019");
        event.id.0 = u128::from(n).to_be_bytes();
        opened.policy.handle_event(&mut event, now);
        if let Some(delivery) = opened.policy.poll_delivery(now) {
            let outcome = Outcome::Retry;
            opened.policy.handle_outcome(delivery.id, outcome, now);
        }
        // Not each by itself, so that the test takes seconds on a slow disk.
        if n % 10 == 9 {
            opened.store.handle_log("kms".into(), position(n).encode());
            let begun = std::time::Instant::now();
            let saved = opened.store.save(&mut opened.policy, now);
            times.push(begun.elapsed());
            assert_eq!(saved, Saved::Written);
            largest = largest.max(opened.store.size());
        }
        now += SignedDuration::from_secs(6);
    }
    drop(opened);
    let mut opened = reopen(&path).unwrap();
    let (messages, events) = (opened.policy.len(), opened.policy.unsent_events());
    assert_eq!((messages, events), (300, 5000));
    let rows = opened.policy.take_changes(true).rows;
    let bytes =
        |row: &crate::policy::rows::Row| row.key.len() + row.value.as_ref().map_or(0, Vec::len);
    let bytes: usize = rows.iter().map(bytes).sum();
    times.sort_unstable();
    let part = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{messages} messages of {events} events, {bytes} bytes of rows, a file of {largest} bytes; \
         {} saves: half took {:?}, 95 % {:?}, all {:?}",
        times.len(),
        part(50),
        part(95),
        part(100),
    );
    assert!(bytes < 128 << 10 && largest < 2 << 20, "{bytes}, {largest}");
    let delivery = opened
        .policy
        .poll_delivery(now + SignedDuration::from_secs(60));
    let Some(crate::policy::Body::Digest(digest)) = delivery.map(|delivery| delivery.body) else {
        panic!("all of it is one digest");
    };
    assert_eq!(digest.events(), 5000);
}

#[test]
fn requests_and_replies_cross_the_socket() {
    let (_directory, path) = place();
    let mut opened = reopen(&path).unwrap();
    assert_eq!(ask(&path, &Request::List).unwrap(), None, "nobody is there");
    let mut event = activation("10.0.0.1", "Office 2019");
    opened.policy.handle_event(&mut event, at(0));
    let delivery = opened.policy.poll_delivery(at(0)).unwrap();
    opened
        .policy
        .handle_outcome(delivery.id, Outcome::Final(404), at(1));

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let policy = std::sync::Mutex::new(opened.policy);
    let asked = |request: Request| {
        let reply = answer(&request, &mut policy.lock().unwrap(), at(2));
        async { Some(reply) }
    };
    let talk = |request: Request| {
        let path = path.clone();
        runtime.block_on(async {
            let control = Control::bind(&path).unwrap();
            let client = tokio::task::spawn_blocking(move || ask(&path, &request));
            tokio::select! {
                () = control.serve(asked) => unreachable!("it never ends"),
                reply = client => reply.unwrap().unwrap().unwrap(),
            }
        })
    };
    let Reply::Letters(letters) = talk(Request::List) else {
        panic!()
    };
    let expected = Letter {
        id: 0,
        refused_at: at(1),
        status: 404,
        kind: crate::event::Kind::Activation,
        count: 1,
        ip: "10.0.0.1".parse().ok(),
        workstation: Some("PC-10-0-0-1".into()),
        product: Some("Office 2019".into()),
    };
    assert_eq!(letters, [expected]);
    assert_eq!(talk(Request::Drop(Selection::Ids(vec![9]))), Reply::Done(0));
    assert_eq!(talk(Request::Retry(Selection::All)), Reply::Done(1));
    assert_eq!(ask(&path, &Request::List).unwrap(), None, "it was removed");
}

#[test]
fn nobody_listens_where_the_name_is_too_long_for_a_socket() {
    let (directory, _) = place();
    let path = directory.path().join("s".repeat(150));
    assert_eq!(ask(&path, &Request::List).unwrap(), None);
}

#[test]
fn the_socket_is_private_and_replaces_an_old_one() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, path) = place();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    std::mem::forget(Control::bind(&path).unwrap());
    let control = Control::bind(&path).unwrap();
    let socket = directory.path().join("state.redb.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(control);
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
