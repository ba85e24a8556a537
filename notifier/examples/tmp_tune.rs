#![allow(missing_docs, clippy::all)]
use notifier::assembler::*;
use notifier::event::*;
use std::collections::HashMap;
struct Rec {
    name: String,
    data: Vec<u8>,
    by_cmid: HashMap<String, String>,
    by_name: HashMap<String, String>,
}
fn run(r: &Rec) -> Vec<Event> {
    let mut a = Assembler::new("x".into(), jiff::tz::TimeZone::UTC);
    let mut out = vec![];
    let ids = IdMaker::new(b"");
    let mut off = 0;
    for l in r.data.split_inclusive(|b| *b == b'\n') {
        let raw = l.strip_suffix(b"\n").unwrap_or(l);
        a.handle_line(
            &Input {
                text: raw,
                raw,
                offset: off,
                ids: &ids,
                stamp: None,
                yearless: None,
                pid: None,
                unwrapped: false,
                read_at: None,
            },
            &mut out,
        );
        off += l.len() as u64;
    }
    a.finish(false, &mut out);
    out
}
fn eval(recs: &[Rec], show: bool) -> f64 {
    let mut total = 0.0;
    let mut tn = 0;
    let mut tw = 0;
    let mut tsw = 0;
    let mut bn = 0;
    let mut br = 0;
    for r in recs {
        let ev = run(r);
        let (mut n, mut right, mut sure, mut wrong, mut swrong) = (0, 0, 0, 0, 0);
        for e in &ev {
            let Some(q) = &e.request else { continue };
            let ip = q
                .client_machine_id
                .and_then(|c| r.by_cmid.get(&c.to_string()))
                .or_else(|| q.workstation.as_ref().and_then(|w| r.by_name.get(&**w)));
            let Some(ip) = ip else { continue };
            let ip: std::net::IpAddr = ip.parse().unwrap();
            n += 1;
            let ok = e.ip == Some(ip);
            right += ok as i32;
            let s = matches!(
                e.attribution,
                Some(Attribution::Exact | Attribution::Inferred)
            );
            sure += s as i32;
            if !ok {
                if s {
                    swrong += 1;
                    wrong += 1;
                } else if !e.candidates.contains(&ip) {
                    wrong += 1;
                }
            }
        }
        let nn = n.max(1) as f64;
        let burst = r.name.contains("burst");
        let sh = sure as f64 / nn;
        total += right as f64 * 0.6 + sure as f64 * if burst { 0.2 } else { 0.5 }
            - wrong as f64 * 3.0
            - swrong as f64 * if burst { 3.0 } else { 8.0 };
        if !burst && sh < 0.96 {
            total -= (0.96 - sh) * 200.0;
        }
        if show {
            println!(
                "{:36} n {n} right {right} sure {sure} ({:.1}%) wrong {wrong} surewrong {swrong}",
                r.name,
                sh * 100.0
            );
        }
        tn += n;
        tw += wrong;
        tsw += swrong;
        if burst {
            bn += n;
            br += right;
        }
    }
    if show {
        println!(
            "TOTAL {tn} wrong {tw} surewrong {tsw} burst right {:.3} score {total:.1}",
            br as f64 / bn as f64
        );
    }
    total
}
fn main() {
    let mut recs = vec![];
    for f in std::fs::read_dir("../shared/recorded").unwrap() {
        let p = f.unwrap().path();
        let s = p.to_string_lossy().to_string();
        if !s.ends_with(".log") {
            continue;
        }
        if !(s.contains("burst") || s.contains("held") || s.contains("production"))
            || s.contains("syslog")
            || s.contains("cri-")
            || s.contains("docker")
        {
            continue;
        }
        let truth = std::fs::read_to_string(s.replace(".log", ".truth.jsonl")).unwrap();
        let mut by_cmid = HashMap::new();
        let mut by_name = HashMap::new();
        for l in truth.lines() {
            let v: serde_json::Value = serde_json::from_str(l).unwrap();
            if let Some(c) = v["cmid"].as_str() {
                by_cmid.insert(c.to_string(), v["ip"].as_str().unwrap().to_string());
                by_name.insert(
                    v["workstation"].as_str().unwrap().to_string(),
                    v["ip"].as_str().unwrap().to_string(),
                );
            }
        }
        recs.push(Rec {
            name: p.file_stem().unwrap().to_string_lossy().to_string(),
            data: std::fs::read(&p).unwrap(),
            by_cmid,
            by_name,
        });
    }
    recs.sort_by(|a, b| a.name.cmp(&b.name));
    let mut best = eval(&recs, true);
    let args: Vec<f64> = std::env::args()
        .skip(1)
        .map(|a| a.parse().unwrap())
        .collect();
    let secs = args.first().copied().unwrap_or(0.0);
    let mut seed = args.get(1).copied().unwrap_or(1.0) as u64 * 7919 + 12345;
    let mut rnd = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) as f64 / (1u64 << 53) as f64
    };
    let t = std::time::Instant::now();
    let mut bp = *attribution::P.read().unwrap();
    let mut n = 0;
    while t.elapsed().as_secs_f64() < secs {
        let mut c = bp;
        let k = 1 + (rnd() * 3.0) as usize;
        for _ in 0..k {
            let i = (rnd() * 24.0) as usize;
            match i {
                2 | 9 | 12 | 15 | 17 => {
                    let z = 1.0 - c[i];
                    c[i] = 1.0 - z * (2.0f64).powf(rnd() * 2.0 - 1.0);
                    c[i] = c[i].clamp(0.2, 0.9995);
                }
                23 => {}
                8 | 16 => c[i] = (c[i] * (2.0f64).powf(rnd() * 2.0 - 1.0)).min(0.9),
                22 => c[i] = (c[i] * (2.0f64).powf(rnd() * 2.0 - 1.0)).clamp(1.0, 20.0),
                0 => c[i] = (c[i] * (2.0f64).powf(rnd() * 2.0 - 1.0)).clamp(0.0, 3.0),
                _ => c[i] *= (4.0f64).powf(rnd() * 2.0 - 1.0),
            }
        }
        *attribution::P.write().unwrap() = c;
        let v = eval(&recs, false);
        n += 1;
        if v >= best {
            best = v;
            bp = c;
        }
    }
    *attribution::P.write().unwrap() = bp;
    println!("evals {n} best {best} {bp:?}");
    eval(&recs, true);
}
