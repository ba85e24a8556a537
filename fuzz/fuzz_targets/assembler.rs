//! Any log is read to its end: every line counted, every event well formed, and the
//! same whether its lines are taken one by one or as they follow each other.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use notifier::event::Attribution;
use notifier::reader::Reader;
use notifier::source::container::Format;
use notifier::source::splitter::LineSplitter;
use notifier::source::{LineHandler, Opened};

/// Recordings have far shorter lines; the bound itself is to be met, too.
const MAX_LINE: usize = 2048;

/// Whether lines are handed over with those that follow them.
fn read(input: &[u8], ahead: bool) -> Reader {
    let mut reader = Reader::new(
        Arc::from("log"),
        jiff::tz::TimeZone::UTC,
        Format::Auto,
        MAX_LINE,
    );
    reader.opened(Opened {
        generation: 0,
        start: 0,
        head: None,
        modified: None,
    });
    let mut splitter = LineSplitter::new(0, MAX_LINE, 4096);
    splitter.push(input);
    if ahead {
        while splitter.hand_over(0, &mut reader) {}
    }
    while let Some(line) = splitter.next_line() {
        reader.line(0, line);
    }
    if let Some(line) = splitter.finish() {
        reader.line(0, line);
    }
    reader.finish(true);
    reader
}

fuzz_target!(|input: &[u8]| {
    let mut by_line = read(input, false);
    let mut reader = read(input, true);
    assert_eq!(reader.take_counters(), by_line.take_counters());
    assert_eq!(reader.take_traffic(), by_line.take_traffic());
    let events = std::mem::take(reader.events());
    assert_eq!(events, *by_line.events());
    for event in events {
        let hedged = event.attribution == Some(Attribution::Ambiguous);
        assert_eq!(hedged, !event.candidates.is_empty());
        assert!(event.attribution != Some(Attribution::Exact) || event.ip.is_some());
        assert_eq!(event.kind.is_request(), event.request.is_some());
        let json = serde_json::to_string(&event).expect("events are JSON");
        assert!(!json.chars().any(kms_core::text::is_hidden), "{json}");
    }
});
