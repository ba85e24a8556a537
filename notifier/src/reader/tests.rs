//! Recordings read in pieces: stopped and gone on with at any line.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// A recording's lines with their offsets.
struct Recording {
    bytes: Vec<u8>,
}

impl Recording {
    fn all() -> Vec<(String, Self)> {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/recorded");
        let mut all: Vec<(String, Self)> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
            .map(|path| {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                let bytes = std::fs::read(path).unwrap();
                (name, Self { bytes })
            })
            .collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        assert!(all.len() >= 20, "the recordings are there");
        all
    }

    fn lines(&self) -> Vec<RawLine<'_>> {
        let mut offset = 0;
        let mut lines = Vec::new();
        for line in self.bytes.split_inclusive(|byte| *byte == b'\n') {
            let bytes = line.strip_suffix(b"\n").unwrap_or(line);
            lines.push(RawLine {
                offset,
                bytes,
                cut: false,
            });
            offset += line.len() as u64;
        }
        lines
    }
}

fn reader() -> Reader {
    Reader::new("kms".into(), TimeZone::UTC, Format::Auto, 64 * 1024)
}

/// Reads all lines; before each line of `stops` the reader is stored, dropped
/// and made anew. `paused` stops it in order. Gives the largest size stored.
fn read(lines: &[RawLine<'_>], stops: &[usize], paused: bool) -> (Vec<Event>, usize) {
    let (mut reader, mut events, mut largest) = (reader(), Vec::new(), 0);
    for (at, line) in lines.iter().enumerate() {
        if stops.contains(&at) && at > 0 {
            if paused {
                reader.pause();
            }
            events.append(reader.events());
            let saved = reader.save();
            largest = largest.max(saved.bytes.len());
            reader = self::reader();
            assert_eq!(reader.restore(&saved), 0);
            assert_eq!(
                reader.save().bytes.len(),
                saved_assembler_only(&saved, &reader)
            );
        }
        if at == 0 || stops.contains(&at) {
            reader.opened(Opened {
                generation: 0,
                start: line.offset,
                head: Some(lines[0].bytes),
                modified: None,
            });
        }
        reader.line(0, *line);
    }
    reader.finish(false);
    events.append(reader.events());
    (events, largest)
}

/// Right after it was restored no generation is open, so the rest is smaller.
fn saved_assembler_only(saved: &Unfinished, reader: &Reader) -> usize {
    let without: usize =
        postcard::to_stdvec(&(Vec::<(EventId, &Unwrapper)>::new(), reader.assembler.save()))
            .unwrap()
            .len();
    assert!(without < saved.bytes.len());
    without
}

#[test]
fn a_recording_stopped_anywhere_gives_the_same_events() {
    for (name, recording) in Recording::all() {
        let lines = recording.lines();
        let (whole, _) = read(&lines, &[], false);
        let mut random = fastrand::Rng::with_seed(7);
        let stops: Vec<usize> = (0..60).map(|_| random.usize(..lines.len())).collect();
        let (pieces, largest) = read(&lines, &stops, false);
        assert_eq!(pieces.len(), whole.len(), "{name}");
        for (piece, whole) in pieces.iter().zip(&whole) {
            assert_eq!(piece, whole, "{name}");
        }
        assert!(largest < 256 * 1024, "{name}: {largest} bytes");
    }
}

/// A recording in two files, the second opened before the first is closed or after.
fn read_rotated(lines: &[RawLine<'_>], at: usize, overlap: bool) -> Vec<Event> {
    let mut reader = reader();
    let first = Closed {
        generation: 0,
        reason: crate::source::CloseReason::Silent,
        position: 0,
        unterminated: false,
        lost: 0,
    };
    for (number, piece) in (0..).zip([&lines[..at], &lines[at..]]) {
        if number == 1 && !overlap {
            reader.closed(first);
        }
        reader.opened(Opened {
            generation: number,
            start: 0,
            head: Some(piece[0].bytes),
            modified: None,
        });
        for line in piece {
            reader.line(number, *line);
        }
    }
    if overlap {
        reader.closed(first);
    }
    reader.finish(false);
    std::mem::take(reader.events())
}

#[test]
fn a_line_in_parts_goes_on_in_the_next_file() {
    let what = |events: &[Event]| -> Vec<_> {
        let requests = events.iter().filter(|event| event.kind.is_request());
        requests
            .map(|event| (event.kind, event.ip, event.request.clone()))
            .collect()
    };
    for name in ["cri-svn1113-fork-held", "docker-svn1113-fork-held"] {
        let all = Recording::all();
        let (_, recording) = all.iter().find(|(found, _)| found == name).unwrap();
        let lines = recording.lines();
        let whole = what(&read(&lines, &[], false).0);
        let is_part = |line: &RawLine<'_>| {
            let text = String::from_utf8_lossy(line.bytes);
            text.contains(" stdout P ") || text.starts_with("{\"log\"") && !text.contains("\\n\"")
        };
        let parts: Vec<usize> = (0..lines.len()).filter(|at| is_part(&lines[*at])).collect();
        assert!(
            name.starts_with("docker") || parts.len() > 10,
            "{name}: {}",
            parts.len()
        );
        for part in parts.into_iter().step_by(3) {
            for overlap in [false, true] {
                let events = read_rotated(&lines, part + 1, overlap);
                assert!(what(&events) == whole, "{name}, line {part}");
            }
        }
    }
}

/// Rotated between two parts, and killed while the next file is still empty.
#[test]
fn a_line_in_parts_outlives_an_empty_file_and_a_restart() {
    let line = |offset, text: &'static str| RawLine {
        offset,
        bytes: text.as_bytes(),
        cut: false,
    };
    let opened = |generation, start, head: Option<&'static str>| Opened {
        generation,
        start,
        head: head.map(str::as_bytes),
        modified: None,
    };
    let head = "2026-11-20T21:00:00.1Z stdout F 2026-11-20 21:00:00: Listening on 0.0.0.0:1688";
    let begun = "2026-11-20T21:00:01.1Z stdout P 2026-11-20 21:00:01: IPv4 connection acc";
    let ended = "2026-11-20T21:00:01.2Z stdout F epted: 10.0.0.1:50001.";
    let closed = "2026-11-20T21:00:02.1Z stdout F 2026-11-20 21:00:02: IPv4 connection closed: 10.0.0.1:50001.";
    let end = head.len() as u64 + 1 + begun.len() as u64 + 1;

    for empty in 1..=3 {
        let mut first = reader();
        first.opened(opened(0, 0, None));
        first.line(0, line(0, head));
        first.line(0, line(head.len() as u64 + 1, begun));
        (1..=empty).for_each(|number| first.opened(opened(number, 0, None)));
        let saved = first.save();

        let mut second = reader();
        assert_eq!(second.restore(&saved), 0);
        second.opened(opened(0, end, Some(head)));
        (1..=empty).for_each(|number| second.opened(opened(number, 0, None)));
        second.line(empty, line(0, ended));
        second.line(empty, line(ended.len() as u64 + 1, closed));
        let events = std::mem::take(second.events());
        let kinds: Vec<_> = events
            .iter()
            .map(|event| (event.kind, event.port))
            .collect();
        assert_eq!(kinds, [(crate::event::Kind::Probe, Some(50001))]);
    }
}

#[test]
fn an_orderly_stop_loses_no_request() {
    for (name, recording) in Recording::all() {
        let lines = recording.lines();
        // Who is taken for a prober may differ: some were decided too early.
        let ids = |events: Vec<Event>| {
            let requests = events.iter().filter(|event| event.kind.is_request());
            let mut ids: Vec<_> = requests.map(|event| (event.id, event.kind)).collect();
            ids.sort_by_key(|(id, _)| *id);
            ids
        };
        let whole = ids(read(&lines, &[], false).0);
        let stops: Vec<usize> = (0..lines.len()).step_by(lines.len() / 7 + 1).collect();
        assert_eq!(ids(read(&lines, &stops, true).0), whole, "{name}");
    }
}

#[test]
fn what_another_version_left_is_dropped_and_nobody_is_exact() {
    let (_, recording) = Recording::all()
        .into_iter()
        .find(|(name, _)| name == "svn1113-threads-held")
        .unwrap();
    let lines = recording.lines();
    let half = lines.len() / 2;
    let mut first = reader();
    first.opened(Opened {
        generation: 0,
        start: 0,
        head: Some(lines[0].bytes),
        modified: None,
    });
    for line in &lines[..half] {
        first.line(0, *line);
    }
    let mut saved = first.save();
    saved.version += 1;
    let mut second = reader();
    assert_eq!(second.restore(&saved), u64::from(saved.requests));
    second.opened(Opened {
        generation: 0,
        start: lines[half].offset,
        head: Some(lines[0].bytes),
        modified: None,
    });
    for line in &lines[half..] {
        second.line(0, *line);
    }
    second.finish(false);
    let exact = Some(crate::event::Attribution::Exact);
    let events = std::mem::take(second.events());
    assert!(events.iter().any(|event| event.attribution.is_some()));
    let within = |event: &&Event| {
        let since = events[0].time.unwrap().at;
        event.time.unwrap().at.duration_since(since).as_secs() < 660
    };
    assert!(
        events
            .iter()
            .filter(within)
            .all(|event| event.attribution != exact)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Damage behind the checksums of the database is no reason to panic.
    #[test]
    fn any_bytes_are_restored_or_dropped(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        lines in 1_usize..120,
    ) {
        let all = Recording::all();
        let recording = &all[lines % all.len()].1;
        let mut first = reader();
        let lines: Vec<_> = recording.lines().into_iter().take(lines).collect();
        let opened = |start| Opened {
            generation: 0,
            start,
            head: Some(lines[0].bytes),
            modified: None,
        };
        first.opened(opened(0));
        for line in &lines {
            first.line(0, *line);
        }
        let mut saved = first.save();
        for (at, byte) in flips {
            let at = at.index(saved.bytes.len());
            saved.bytes[at] = byte;
        }
        let mut second = reader();
        second.restore(&saved);
        second.opened(opened(1));
        for line in recording.lines() {
            second.line(0, line);
        }
        second.finish(true);
    }
}
