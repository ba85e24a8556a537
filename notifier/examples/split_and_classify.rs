//! Cuts a log into lines and classifies each, nothing more: the least that reading
//! one can cost. `bench/compare` times it beside the whole program.
//!
//!     cargo run --release --example split_and_classify -- FILE

use std::env;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};

use notifier::line::classify;
use notifier::replay::READ_SIZE;
use notifier::source::DEFAULT_MAX_LINE;
use notifier::source::splitter::LineSplitter;

fn main() -> io::Result<()> {
    let Some(path) = env::args_os().nth(1) else {
        return Err(io::Error::other("give a log"));
    };
    let mut file = File::open(path)?;
    let mut splitter = LineSplitter::new(0, DEFAULT_MAX_LINE, READ_SIZE);
    let mut lines: u64 = 0;
    while !splitter.read_from(&mut file)?.is_empty() {
        while let Some(line) = splitter.next_line() {
            black_box(classify(line.bytes));
            lines += 1;
        }
    }
    if let Some(line) = splitter.finish() {
        black_box(classify(line.bytes));
        lines += 1;
    }
    writeln!(io::stdout(), "{lines} lines")
}
