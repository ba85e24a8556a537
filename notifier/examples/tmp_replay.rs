#![allow(missing_docs, clippy::all)]
use notifier::assembler::*;
use notifier::event::*;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let data = std::fs::read(&path).unwrap();
    let mut a = Assembler::new("x".into(), jiff::tz::TimeZone::UTC);
    let mut out = vec![];
    let mut ids: Option<IdMaker> = None;
    let mut off = 0;
    let syslog = path.contains("syslog");
    for l in data.split_inclusive(|b| *b == b'\n') {
        let raw = l.strip_suffix(b"\n").unwrap_or(l);
        let ids = ids.get_or_insert_with(|| IdMaker::new(raw));
        let mut text = raw;
        let mut pid = None;
        if syslog {
            let s = std::str::from_utf8(raw).unwrap();
            let i = s.find("vlmcsd[").unwrap();
            let j = s[i..].find("]: ").unwrap() + i;
            pid = Some(s[i + 7..j].parse().unwrap());
            text = &raw[j + 3..];
        }
        a.handle_line(
            &Input {
                text,
                raw,
                offset: off,
                ids,
                stamp: None,
                yearless: None,
                pid,
                unwrapped: false,
                read_at: None,
            },
            &mut out,
        );
        off += l.len() as u64;
    }
    a.finish(false, &mut out);
    for e in &out {
        println!("{}", serde_json::to_string(e).unwrap());
    }
    eprintln!("{:?}", a.take_counters());
}
