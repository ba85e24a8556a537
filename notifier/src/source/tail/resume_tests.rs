//! What a restart finds again, and the sidecar's own rotation.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::UNIX_EPOCH;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::tests::{Bench, Heard};
use super::*;

impl Bench {
    fn marks(&self) -> Vec<Mark> {
        self.tail.as_ref().unwrap().marks()
    }

    /// What is kept of a mark is what a database keeps.
    fn resume(&mut self, marks: &[Mark]) {
        let kept = serde_json::to_vec(marks).unwrap();
        let marks: Vec<Mark> = serde_json::from_slice(&kept).unwrap();
        self.open(Start::At(marks));
        // Another run counts its generations anew.
        let lines = mem::take(&mut self.heard.lines);
        self.heard = Heard {
            lines,
            ..Heard::default()
        };
    }

    /// Reads to the end and stops without a word.
    fn stop(&mut self) -> Vec<Mark> {
        self.lines();
        self.marks()
    }

    /// As gzip and logrotate do: the time of the last change is kept.
    fn gzip(&self, name: &str) {
        let (from, to) = (self.path(name), self.path(&format!("{name}.gz")));
        let mut packed = GzEncoder::new(File::create(to).unwrap(), Compression::default());
        packed.write_all(&fs::read(&from).unwrap()).unwrap();
        let modified = fs::metadata(&from).unwrap().modified().unwrap();
        packed.finish().unwrap().set_modified(modified).unwrap();
        fs::remove_file(from).unwrap();
    }
}

/// A bench whose log had these lines and was read to its end.
fn stopped(text: &str) -> (Bench, Vec<Mark>) {
    let mut bench = Bench::new();
    bench.append("log", text);
    bench.open(Start::Beginning);
    let marks = bench.stop();
    assert_eq!(marks.len(), 1);
    (bench, marks)
}

#[test]
fn the_same_file_goes_on_where_it_was() {
    let (mut bench, marks) = stopped("one\ntwo\nthr");
    bench.append("log", "ee\nfour\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 three", "0 four"]);
    assert_eq!(
        bench.heard.opened.last(),
        Some(&(0, 8, Some(b"one".to_vec())))
    );
    assert!(bench.heard.notices.is_empty() && bench.heard.rotated.is_empty());
    // And once more, from a mark whose trail was read by two runs.
    let marks = bench.stop();
    bench.append("log", "five\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 five"]);
}

#[test]
fn marks_stay_what_they_are_until_something_was_read() {
    let (mut bench, marks) = stopped("one\n");
    bench.resume(&marks);
    assert_eq!(bench.marks(), marks);
    bench.poll();
    assert_eq!(bench.marks(), marks);
}

#[test]
fn the_rest_of_a_file_that_was_rotated_comes_before_the_new_one() {
    let (mut bench, marks) = stopped("one\ntw");
    bench.append("log", "o\nthree\n");
    bench.rename("log", "log.1");
    bench.append("log", "four\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 two", "0 three", "1 four"]);
    assert_eq!(bench.heard.rotated, [Rotation::Rename]);
    // The server may still hold the old file.
    bench.append("log.1", "late\n");
    assert_eq!(bench.lines(), ["0 late"]);
    bench.wait(5);
    bench.poll();
    assert_eq!(
        (bench.last_closed().generation, bench.marks().len()),
        (0, 1)
    );
    assert!(bench.heard.notices.is_empty());
}

#[test]
fn files_of_several_rotations_are_read_oldest_first_packed_or_not() {
    let (mut bench, marks) = stopped("one\ntw");
    // Rotated before: none of it is read again.
    bench.append("log.old", "zero\n");
    bench.touch(&File::open(bench.path("log")).unwrap());
    let marks = [Mark {
        seen_until: bench.stop()[0].seen_until,
        ..marks[0]
    }];
    bench.append("log", "o\nthree\n");
    bench.rename("log", "log.3");
    bench.append("log.2", "four\n");
    bench.append("log.1", "five\nunterminated");
    bench.append("log", "six\n");
    bench.gzip("log.3");
    bench.gzip("log.1");
    bench.resume(&marks);
    assert_eq!(
        bench.lines(),
        [
            "0 two",
            "0 three",
            "1 four",
            "2 five",
            "2 unterminated",
            "3 six"
        ]
    );
    assert_eq!(bench.heard.opened.len(), 4);
    assert_eq!(bench.heard.opened[0], (0, 4, Some(b"one".to_vec())));
    assert_eq!(bench.heard.rotated, [Rotation::Rename; 3]);
    assert!(bench.heard.notices.is_empty());
}

#[test]
fn dated_names_are_found_as_well() {
    let (mut bench, marks) = stopped("one\n");
    bench.append("log", "two\n");
    bench.rename("log", "log-20261119");
    bench.append("log-20261120", "three\n");
    bench.append("log", "four\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 two", "1 three", "2 four"]);
}

#[test]
fn what_was_copied_and_truncated_is_found_in_the_copy() {
    let (mut bench, marks) = stopped("one\ntwo\n");
    bench.append("log", "three\n");
    fs::copy(bench.path("log"), bench.path("log.1")).unwrap();
    let log = bench.append("log", "");
    log.set_len(0).unwrap();
    bench.append("log", "four\nfive\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 three", "1 four", "1 five"]);
    assert_eq!(bench.heard.rotated, [Rotation::Truncate]);
    assert!(bench.heard.notices.is_empty());
}

#[test]
fn what_was_copied_from_a_file_that_was_empty_is_found_too() {
    let (mut bench, _) = stopped("one\n");
    bench.rename("log", "log.2");
    bench.append("log", "");
    let marks = bench.stop();
    assert_eq!(marks.last().unwrap().offset, 0);
    let log = bench.append("log", "two\n");
    fs::copy(bench.path("log"), bench.path("log.1")).unwrap();
    bench.append("log.1", "");
    log.set_len(0).unwrap();
    bench.append("log", "three\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["1 two", "2 three"]);
    assert!(bench.heard.notices.is_empty());
    // It is a rotated file by now, and was written after its copy.
    bench.rename("log", "log.0");
    bench.append("log", "four\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["1 two", "2 three", "3 four"]);
    assert!(bench.heard.notices.is_empty());
}

/// A copytruncate and the next line take less than a tick of the kernel's clock.
#[test]
fn of_files_changed_at_the_same_time_the_names_say_which_is_older() {
    for (copied, renamed) in [
        ("log.2", "log.1"),
        ("log.10", "log.9"),
        ("log-20261120-0018", "log-20261120-0019"),
    ] {
        let (mut bench, _) = stopped("");
        let marks = bench.stop();
        assert_eq!(marks.last().map(|mark| mark.offset), Some(0));
        let log = bench.append("log", "one\n");
        fs::copy(bench.path("log"), bench.path(copied)).unwrap();
        log.set_len(0).unwrap();
        bench.append("log", "two\n");
        let now = log.metadata().unwrap().modified().unwrap();
        let copy = File::options().write(true).open(bench.path(copied));
        copy.unwrap().set_modified(now).unwrap();
        bench.rename("log", renamed);
        bench.append("log", "three\n");
        bench.resume(&marks);
        assert_eq!(bench.lines(), ["0 one", "1 two", "2 three"], "{copied}");
        assert!(bench.heard.notices.is_empty());
    }
}

#[test]
fn an_old_file_of_which_no_line_was_read_still_comes_before_the_next_one() {
    let (mut bench, _) = stopped("on");
    bench.rename("log", "log.2");
    bench.append("log", "");
    let marks = bench.stop();
    let offsets: Vec<u64> = marks.iter().map(|mark| mark.offset).collect();
    assert_eq!(offsets, [0, 0]);
    bench.append("log", "two\n");
    // The server still held it.
    bench.append("log.2", "e\n");
    bench.rename("log", "log.1");
    bench.append("log", "three\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 one", "1 two", "2 three"]);
    assert!(bench.heard.notices.is_empty());
}

#[test]
fn a_truncation_without_a_copy_is_a_gap() {
    let (mut bench, marks) = stopped("one\ntwo\n");
    let log = bench.append("log", "three\n");
    log.set_len(0).unwrap();
    bench.append("log", "four\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 four"]);
    assert_eq!(bench.heard.notices, ["file gone"]);
}

#[test]
fn a_deleted_file_is_a_gap() {
    let (mut bench, marks) = stopped("one\n");
    fs::remove_file(bench.path("log")).unwrap();
    bench.append("log", "two\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 two"]);
    assert_eq!(bench.heard.notices, ["file gone"]);
    assert_eq!(bench.heard.rotated, [Rotation::Rename]);
}

#[test]
fn a_used_inode_and_a_like_beginning_do_not_confuse() {
    // Logs without stamps begin alike: the place tells them apart.
    let head = format!("{}\n", "h".repeat(90)).repeat(12);
    let (mut bench, marks) = stopped(&format!("{head}ours {}\n", "x".repeat(50)));
    bench.append("log", "rest\n");
    bench.rename("log", "log.2");
    bench.append(
        "log.1",
        &format!("{head}other {}\nmore of it\n", "x".repeat(49)),
    );
    bench.append("log", &format!("{head}third {}\nnewest\n", "x".repeat(49)));
    // Both newer files got the inode in turn.
    for name in ["log.1", "log"] {
        let file = FileId::of(&fs::metadata(bench.path(name)).unwrap());
        bench.resume(&[Mark { file, ..marks[0] }]);
        let first = &bench.lines()[0];
        assert!(first == "0 rest", "{first}");
        assert!(bench.heard.notices.is_empty());
    }
}

#[test]
fn a_volume_that_was_copied_or_renumbered_goes_on() {
    let (mut bench, marks) = stopped("one\n");
    bench.append("log", "two\n");
    fs::copy(bench.path("log"), bench.path("copy")).unwrap();
    bench.rename("copy", "log");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 two"]);
    assert!(bench.heard.notices.is_empty() && bench.heard.rotated.is_empty());
}

#[test]
fn a_rotated_log_without_a_successor_is_still_the_log() {
    let (mut bench, marks) = stopped("one\n");
    bench.append("log", "two\n");
    bench.rename("log", "log.1");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 two"]);
    assert_eq!(bench.heard.notices, ["missing"]);
    bench.wait(60);
    bench.append("log.1", "three\n");
    assert_eq!(bench.lines(), ["0 three"]);
    let marks = bench.stop();
    bench.append("log", "four\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["1 four"]);
    assert!(bench.heard.notices.is_empty());
}

#[test]
fn a_packed_log_without_a_successor_keeps_its_mark() {
    let (mut bench, marks) = stopped("one\n");
    bench.append("log", "two\n");
    bench.gzip("log");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 two"]);
    bench.wait(60);
    let marks = bench.stop();
    assert_eq!(marks[0].offset, 8);
    bench.append("log", "three\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["1 three"]);
    assert_eq!(bench.heard.closed.len(), 1);
}

#[test]
fn a_volume_that_comes_late_is_resumed_then() {
    let (mut bench, marks) = stopped("one\n");
    bench.rename("log", "elsewhere");
    bench.resume(&marks);
    for _ in 0..3 {
        assert!(bench.poll().waiting_for_file);
        assert_eq!(bench.marks(), marks);
    }
    bench.append("elsewhere", "two\n");
    bench.rename("elsewhere", "log");
    assert_eq!(bench.lines(), ["0 two"]);
    assert_eq!(bench.heard.notices, ["missing"]);
}

#[test]
fn a_log_that_was_not_there_yet_is_read_from_its_beginning() {
    let mut bench = Bench::new();
    bench.open(Start::End);
    bench.lines();
    let marks = bench.marks();
    assert!(marks.is_empty());
    bench.append("log", "one\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 one"]);
    assert!(bench.heard.notices.is_empty() && bench.heard.rotated.is_empty());
}

#[test]
fn an_old_file_that_was_being_waited_out_still_is() {
    let (mut bench, _) = stopped("one\n");
    bench.rename("log", "log.1");
    bench.append("log", "two\n");
    let marks = bench.stop();
    assert_eq!(marks.len(), 2);
    bench.append("log", "three\n");
    bench.append("log.1", "late\n");
    bench.rename("log.1", "log.2");
    bench.rename("log", "log.1");
    bench.append("log", "four\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 late", "1 three", "2 four"]);
    assert!(bench.heard.notices.is_empty());
}

#[test]
fn a_link_is_followed_to_what_lies_beside_its_target() {
    let mut bench = Bench::new();
    fs::create_dir(bench.path("pod")).unwrap();
    bench.append("pod/0.log", "one\n");
    symlink(bench.path("pod/0.log"), bench.path("log")).unwrap();
    bench.open(Start::Beginning);
    let marks = bench.stop();
    bench.append("pod/0.log", "two\n");
    bench.rename("pod/0.log", "pod/0.log.20261120-212755");
    bench.gzip("pod/0.log.20261120-212755");
    bench.append("pod/0.log", "three\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["0 two", "1 three"]);
}

#[test]
fn a_damaged_or_unknown_archive_is_a_gap() {
    let (mut bench, marks) = stopped("one\n");
    bench.append("log", "two\n");
    bench.rename("log", "log.3");
    bench.append("log.2", &format!("{}\n", "three ".repeat(1000)));
    bench.gzip("log.2");
    let packed = fs::read(bench.path("log.2.gz")).unwrap();
    fs::write(bench.path("log.2.gz"), &packed[..packed.len() - 9]).unwrap();
    bench.append("log.1", "\u{fffd}");
    fs::write(bench.path("log.1"), b"\xfd7zXZ\0\0\x04").unwrap();
    bench.append("log", "four\n");
    bench.resume(&marks);
    let lines = bench.lines();
    assert_eq!((&*lines[0], &**lines.last().unwrap()), ("0 two", "2 four"));
    // One cannot be opened, the other one's end cannot be read.
    assert_eq!(bench.heard.notices, ["gap: unreadable"; 2]);
}

#[test]
fn no_more_files_are_opened_than_can_be_held() {
    let (mut bench, marks) = stopped("0\n");
    bench.rename("log", "log.50");
    for number in (1..50).rev() {
        bench.append(&format!("log.{number}"), &format!("{number}\n"));
    }
    bench.append("log", "new\n");
    bench.resume(&marks);
    let lines = bench.lines();
    // The marked one is read to its end and does not count.
    assert_eq!(lines.first().unwrap(), "1 32");
    assert_eq!(lines.last().unwrap(), "33 new");
    assert_eq!(lines.len(), 33);
    assert_eq!(bench.heard.notices, ["gap: too many"]);
}

#[test]
fn files_that_are_read_do_not_pile_up_over_rapid_restarts() {
    let (mut bench, mut marks) = stopped("0\n");
    for number in 1..100 {
        bench.append("log", &format!("end of {number}\n"));
        bench.rename("log", &format!("log-{number:06}"));
        bench.append("log", &format!("{number}\n"));
        bench.resume(&marks);
        // Nobody lives long enough to see a file silent.
        let lines = bench.lines();
        assert!(lines[0].ends_with(&format!("end of {number}")), "{lines:?}");
        assert!(lines[1].ends_with(&format!(" {number}")), "{lines:?}");
        assert_eq!((lines.len(), bench.heard.notices.len()), (2, 0));
        marks = bench.marks();
        assert!(marks.len() <= MAX_OLD_FILES + 1, "{}", marks.len());
    }
}

#[test]
fn many_old_files_without_news_are_no_gap() {
    let (mut bench, marks) = stopped("0\n");
    for number in 0..1500 {
        let old = bench.append(&format!("log.old{number}"), "old\n");
        old.set_modified(UNIX_EPOCH).unwrap();
    }
    bench.rename("log", "log.1");
    bench.append("log", "new\n");
    bench.resume(&marks);
    assert_eq!(bench.lines(), ["1 new"]);
    assert!(bench.heard.notices.is_empty());
}

#[test]
fn a_stop_in_the_middle_of_what_is_to_be_read_loses_and_repeats_nothing() {
    let (mut bench, mut marks) = stopped("one\n");
    let line = |text: &str, at: usize| format!("{text} {at:059}\n");
    let lines = |text: &str| (0..40_000).map(|at| line(text, at)).collect::<String>();
    let mut expected = String::from("one\n");
    for (name, text) in [("log.3", "aaa"), ("log.2", "bbb"), ("log.1", "ccc")] {
        if name == "log.3" {
            bench.append("log", &lines(text));
            bench.rename("log", name);
        } else {
            bench.append(name, &lines(text));
        }
        expected.push_str(&lines(text));
    }
    bench.gzip("log.2");
    bench.append("log", "new\n");
    expected.push_str("new\n");
    // Every step is the last one of its run.
    let mut steps = 0;
    let mut at_end = false;
    while !at_end {
        bench.resume(&marks);
        at_end = bench.poll().at_end;
        marks = bench.marks();
        steps += 1;
        assert!(steps < 100, "it reads the same again and again");
    }
    assert!(steps > 7);
    let heard: Vec<u8> = bench
        .heard
        .lines
        .iter()
        .flat_map(|line| line.bytes.iter().chain(b"\n"))
        .copied()
        .collect();
    assert!(heard == expected.as_bytes());
}

#[test]
fn a_log_is_rotated_when_it_is_large_and_read() {
    let mut bench = Bench::new();
    let rotate = Some(Rotate { at: 8, keep: 2 });
    let options = TailOptions {
        rotate,
        start: Start::Beginning,
        ..bench.options()
    };
    bench.append("log", "one\n");
    bench.tail = Some(Tail::open(options).unwrap());
    assert_eq!(bench.lines(), ["0 one"]);
    bench.append("log", "unfin");
    bench.poll();
    assert!(bench.path("log").exists(), "a line is not complete");
    bench.append("log", "ished\n");
    assert_eq!(bench.lines(), ["0 unfinished"]);
    assert!(!bench.path("log").exists());

    // Without a file all is well, and the server may be late.
    assert!(!bench.poll().waiting_for_file);
    bench.append("log.1", "late\n");
    bench.append("log", "second file\n");
    assert_eq!(bench.lines(), ["0 late", "1 second file"]);
    bench.poll();
    assert!(bench.path("log").exists(), "the old one settles");
    bench.wait(5);
    bench.poll();
    assert!(!bench.path("log").exists());
    for number in 3..5 {
        bench.append("log", &format!("{number} more of it\n"));
        bench.lines();
        bench.wait(5);
        bench.poll();
    }
    assert_eq!(
        fs::read_to_string(bench.path("log.1")).unwrap(),
        "4 more of it\n"
    );
    assert_eq!(
        fs::read_to_string(bench.path("log.2")).unwrap(),
        "3 more of it\n"
    );
    assert_eq!(fs::read_dir(bench.path("")).unwrap().count(), 2);
    assert!(bench.heard.notices.is_empty());
    assert_eq!(
        bench
            .heard
            .closed
            .iter()
            .map(|closed| closed.lost)
            .sum::<u64>(),
        0
    );
}

#[test]
fn a_rotation_that_fails_is_told_once_and_tried_again() {
    let mut bench = Bench::new();
    let rotate = Some(Rotate { at: 1, keep: 1 });
    let options = TailOptions {
        rotate,
        start: Start::Beginning,
        ..bench.options()
    };
    // Root may write anywhere, but not rename a file to a directory.
    fs::create_dir(bench.path("log.1")).unwrap();
    bench.append("log", "one\n");
    bench.tail = Some(Tail::open(options).unwrap());
    for _ in 0..3 {
        bench.lines();
        bench.wait(40);
    }
    assert_eq!(bench.heard.notices, ["not rotated"]);
    fs::remove_dir(bench.path("log.1")).unwrap();
    bench.wait(60);
    bench.lines();
    assert!(bench.path("log.1").is_file());
}

#[test]
fn what_is_not_a_place_in_a_file_is_not_found_there() {
    let (bench, marks) = stopped("one\ntwo\n");
    let opened = generation::open(&bench.path("log")).unwrap();
    for mark in [
        Mark {
            offset: u64::MAX,
            ..marks[0]
        },
        Mark {
            offset: 1,
            ..marks[0]
        },
        Mark {
            head: Print {
                length: u16::MAX,
                ..marks[0].head
            },
            ..marks[0]
        },
    ] {
        assert!(!mark.is_in(&opened.0, &opened.1).unwrap(), "{mark:?}");
    }
    assert!(marks[0].is_in(&opened.0, &opened.1).unwrap());
    assert!(marks[0].seen_until.unwrap() > Timestamp::try_from(UNIX_EPOCH).unwrap());
}
