//! The same bytes give the same events, however they arrive.

use std::path::Path;

use jiff::tz::TimeZone;
use notifier::reader::Reader;
use notifier::source::container::Format;
use notifier::source::splitter::LineSplitter;
use notifier::source::{LineHandler, Opened};
use proptest::prelude::*;

const MAX_LINE: usize = 64 * 1024;

/// Crowds, blocks that interleave, hostile names, without dates, wrapped.
const NAMES: [&str; 7] = [
    "svn1113-hostile-burst.log",
    "svn1113-quiet-burst.log",
    "svn1113-hostile-nodate.log",
    "cri-svn1113-fork-held.log",
    "svn1113-fork-sequential.log",
    "svn1113-threads-heldburst.log",
    "svn812-held.log",
];

/// What a log came to: its events as JSON lines, and what was counted.
type Told = (Vec<String>, String);

/// A log that arrives in these chunks and is handed over.
fn told<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Told {
    read(
        chunks,
        |splitter, reader| while splitter.hand_over(0, reader) {},
    )
}

/// The same log by definition: in one piece, line by line.
fn told_by_line(bytes: &[u8]) -> Told {
    read(std::iter::once(bytes), |splitter, reader| {
        while let Some(line) = splitter.next_line() {
            reader.line(0, line);
        }
    })
}

fn read<'a>(
    chunks: impl Iterator<Item = &'a [u8]>,
    mut drain: impl FnMut(&mut LineSplitter, &mut Reader),
) -> Told {
    let mut reader = Reader::new("log".into(), TimeZone::UTC, Format::Auto, MAX_LINE);
    let mut splitter = LineSplitter::new(0, MAX_LINE, 4096);
    reader.opened(Opened {
        generation: 0,
        start: 0,
        head: None,
        modified: None,
    });
    for chunk in chunks {
        splitter.push(chunk);
        drain(&mut splitter, &mut reader);
    }
    if let Some(line) = splitter.finish() {
        reader.line(0, line);
    }
    reader.finish(false);
    let json = |event| serde_json::to_string(&event).expect("events are JSON");
    let events = reader.events().drain(..).map(json).collect();
    let counted = format!("{:?} {:?}", reader.take_counters(), reader.take_traffic());
    (events, counted)
}

fn recording(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fixtures/recorded")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_gives_the_same_events(
        which in 0..NAMES.len(),
        sizes in proptest::collection::vec(1..5000_usize, 1..40),
    ) {
        let bytes = recording(NAMES[which]);
        let by_line = told_by_line(&bytes);
        prop_assert!(by_line.0.len() > 20);
        let mut rest = bytes.as_slice();
        let mut sizes = sizes.iter().cycle();
        let chunks = std::iter::from_fn(|| {
            let size = (*sizes.next()?).min(rest.len());
            let (chunk, left) = rest.split_at(size);
            rest = left;
            (!chunk.is_empty()).then_some(chunk)
        });
        prop_assert_eq!(told(chunks), by_line);
    }
}
