//! How fast a log is read, step by step: `cargo bench -p notifier`.
//!
//! The log is every recording that a server wrote in its own form and with dates,
//! one after the other, as `bench/compare` has it.

use std::ffi::OsString;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::tz::TimeZone;
use notifier::config::{self, Command, Replay};
use notifier::line::classify;
use notifier::reader::Reader;
use notifier::replay::{READ_SIZE, replay};
use notifier::source::container::Format;
use notifier::source::splitter::LineSplitter;
use notifier::source::{DEFAULT_MAX_LINE, LineHandler, Opened};

/// Recordings that are left out: wrapped or without dates.
const OTHER_FORMS: [&str; 4] = ["cri-", "docker-", "syslog", "nodate"];

fn mixed_log() -> Vec<u8> {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/recorded");
    let entries = fs::read_dir(recorded).expect("the recordings are there");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a directory can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter(|path| {
            let path = path.to_string_lossy();
            !OTHER_FORMS.iter().any(|form| path.contains(form))
        })
        .collect();
    paths.sort();
    let bytes = paths.iter().map(|path| fs::read(path).expect("readable"));
    bytes.collect::<Vec<_>>().concat()
}

/// Reads the log in pieces, and has each drained.
fn each_read(log: &[u8], mut drain: impl FnMut(&mut LineSplitter)) {
    let mut input = log;
    let mut splitter = LineSplitter::new(0, DEFAULT_MAX_LINE, READ_SIZE);
    while !splitter
        .read_from(&mut input)
        .expect("memory is readable")
        .is_empty()
    {
        drain(&mut splitter);
    }
}

/// What `replay --format FORMAT PATH` is told.
fn told(format: &str, path: &Path) -> Replay {
    let args = ["kms-notifier", "replay", "--format", format].map(OsString::from);
    let args = args.into_iter().chain([path.as_os_str().to_owned()]);
    match config::load(args, &|_| None).map(|loaded| loaded.command) {
        Ok(Command::Replay(replay)) => replay,
        _ => unreachable!("these are the arguments of a replay"),
    }
}

fn reading(criterion: &mut Criterion) {
    let log = mixed_log();
    let mut group = criterion.benchmark_group("reading");
    group.throughput(Throughput::Bytes(log.len() as u64));

    group.bench_function("split and classify", |bencher| {
        bencher.iter(|| {
            each_read(&log, |splitter| {
                while let Some(line) = splitter.next_line() {
                    black_box(classify(line.bytes));
                }
            });
        });
    });

    // Split, unwrap, classify and assemble; the events are dropped.
    group.bench_function("assemble", |bencher| {
        bencher.iter(|| {
            let mut reader =
                Reader::new("log".into(), TimeZone::UTC, Format::Auto, DEFAULT_MAX_LINE);
            reader.opened(Opened {
                generation: 0,
                start: 0,
                head: None,
                modified: None,
            });
            each_read(&log, |splitter| {
                while splitter.hand_over(0, &mut reader) {
                    if reader.has_events() {
                        reader.events().clear();
                    }
                }
            });
            reader.finish(false);
            black_box(reader.events());
        });
    });

    let file = tempfile::NamedTempFile::new().expect("a place for temporary files");
    fs::write(file.path(), &log).expect("room for temporary files");
    for format in ["table", "json"] {
        let what = told(format, file.path());
        group.bench_function(format!("replay {format}"), |bencher| {
            bencher.iter(|| replay(&what, &mut io::sink()).expect("a replay"));
        });
    }
    group.finish();
}

criterion_group!(benches, reading);
criterion_main!(benches);
