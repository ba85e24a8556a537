//! Small logs and what is made of them. Whole recordings are in `tests/`.

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::event::Attribution;

pub(super) const CMID: &str = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0ff";
pub(super) const OTHER: &str = "aaaaaaaa-4b5a-4978-8695-a4b3c2d1e0ff";

/// Writes a log as a server would, all stamped with one second that can be moved.
pub(super) struct Log {
    pub(super) lines: Vec<String>,
    second: u32,
    dated: bool,
}

impl Log {
    pub(super) fn new() -> Self {
        let mut log = Self::late();
        log.say("vlmcsd svn1113, built 2020-03-30 10:00:00 UTC started successfully");
        log
    }

    /// A log whose server started before it.
    pub(super) fn late() -> Self {
        Self {
            lines: Vec::new(),
            second: 0,
            dated: true,
        }
    }

    fn undated() -> Self {
        let mut log = Self {
            dated: false,
            ..Self::late()
        };
        log.say("vlmcsd private build started successfully");
        log
    }

    pub(super) fn at(&mut self, second: u32) -> &mut Self {
        self.second = second;
        self
    }

    pub(super) fn say(&mut self, text: &str) -> &mut Self {
        let (hour, minute, second) = (self.second / 3600, self.second / 60 % 60, self.second % 60);
        let stamp = format!("2026-03-14 {hour:02}:{minute:02}:{second:02}: ");
        let stamp = if self.dated { stamp.as_str() } else { "" };
        // A name may bring line feeds of its own: only the first line is stamped.
        self.lines
            .extend(format!("{stamp}{text}").split('\n').map(str::to_owned));
        self
    }

    pub(super) fn open(&mut self, peer: &str) -> &mut Self {
        self.say(&format!("IPv4 connection accepted: {peer}."))
    }

    pub(super) fn close(&mut self, peer: &str) -> &mut Self {
        self.say(&format!("IPv4 connection closed: {peer}."))
    }

    pub(super) fn ask(&mut self, name: &str, cmid: &str) -> &mut Self {
        for line in asking(name, cmid) {
            self.say(&line);
        }
        self
    }

    pub(super) fn answer(&mut self, cmid: &str) -> &mut Self {
        for line in answering(cmid) {
            self.say(&line);
        }
        self
    }

    pub(super) fn request(&mut self, name: &str, cmid: &str) -> &mut Self {
        self.ask(name, cmid).answer(cmid)
    }

    pub(super) fn events(&self) -> Vec<Event> {
        let mut assembler = Assembler::new("log".into(), TimeZone::UTC);
        let mut events = feed(&mut assembler, &self.lines);
        assembler.finish(false, &mut events);
        events
    }

    /// Kinds and addresses, lifecycle left out.
    pub(super) fn told(&self) -> Vec<String> {
        let events = self.events().into_iter().filter(|event| {
            !matches!(
                event.kind,
                EventKind::ServerStarted | EventKind::ServerStopped
            )
        });
        events.map(|event| tell(&event)).collect()
    }
}

pub(super) fn feed(assembler: &mut Assembler, lines: &[String]) -> Vec<Event> {
    let ids = IdMaker::new(lines.first().map_or(b"", |line| line.as_bytes()));
    let mut events = Vec::new();
    let mut offset = 0;
    for line in lines {
        assembler.handle_line(&input(&ids, offset, line.as_bytes()), &mut events);
        offset += line.len() as u64 + 1;
    }
    events
}

fn input<'a>(ids: &'a IdMaker, offset: u64, line: &'a [u8]) -> Input<'a> {
    Input {
        text: line,
        raw: line,
        offset,
        ids,
        stamp: None,
        yearless: None,
        pid: None,
        unwrapped: false,
        read_at: None,
    }
}

pub(super) fn tell(event: &Event) -> String {
    let mut told = event.kind.as_str().to_owned();
    if let Some(ip) = event.ip {
        told += &format!(" {ip}");
    }
    if let Some(attribution) = event.attribution {
        told += &format!(" {}", attribution.as_str());
    }
    if event.suspect {
        told += " suspect";
    }
    told
}

pub(super) fn asking(name: &str, cmid: &str) -> Vec<String> {
    vec![
        "<<< Incoming KMS request".into(),
        "Protocol version                : 6.0".into(),
        "Client is a virtual machine     : No".into(),
        "Licensing status                : 2 (OOB grace)".into(),
        "Remaining time (0 = forever)    : 43200 minutes".into(),
        "Application ID                  : 55c92734-d682-4d71-983e-d6ec3f16059f (Windows)".into(),
        "SKU ID (aka Activation ID)      : 73111121-5638-40f6-bc11-f1d7b0d64300 (Windows 10 Enterprise)".into(),
        "KMS ID (aka KMS counted ID)     : 58e2134f-8e11-4d17-9cb2-91069c151148 (Windows 10 2015 (Volume))".into(),
        format!("Client machine ID               : {cmid}"),
        "Previous client machine ID      : 00000000-0000-0000-0000-000000000000".into(),
        "Client request timestamp (UTC)  : 2026-03-14 08:26:53".into(),
        format!("Workstation name                : {name}"),
        "N count policy (minimum clients): 25".into(),
    ]
}

pub(super) fn answering(cmid: &str) -> Vec<String> {
    vec![
        ">>> Sending response, ePID source = randomized at program start".into(),
        "Protocol version                : 6.0".into(),
        "KMS host extended PID           : 06401-00206-471-111111-03-1033-17763.0000-0812026"
            .into(),
        "KMS host Hardware ID            : 0123456789ABCDEF".into(),
        format!("Client machine ID               : {cmid}"),
        "Client request timestamp (UTC)  : 2026-03-14 08:26:53".into(),
        "KMS host current active clients : 50".into(),
        "Renewal interval policy         : 10080".into(),
        "Activation interval policy      : 120".into(),
    ]
}

pub(super) const A: &str = "192.0.2.1:1001";
pub(super) const B: &str = "192.0.2.2:1002";

#[test]
fn a_whole_request_is_told_at_its_response() {
    let mut log = Log::new();
    log.open(A).request("PC1.example.org", CMID);
    let events = log.events();
    let event = events.last().expect("an event");
    assert_eq!(event.kind, EventKind::Activation);
    assert_eq!((event.port, event.request_number), (Some(1001), Some(1)));
    assert_eq!(event.attribution, Some(Attribution::Exact));
    assert_eq!(event.active_clients, Some(50));
    assert_eq!(
        event.time.map(|time| time.to_string()).as_deref(),
        Some("2026-03-14T00:00:00+00:00")
    );
    let request = event.request.as_deref().expect("a request");
    assert_eq!(request.product.as_deref(), Some("Windows 10 Enterprise"));
    assert_eq!(request.application.as_deref(), Some("Windows"));
    assert_eq!(request.workstation.as_deref(), Some("PC1.example.org"));
    assert_eq!(request.status, Some("OOB grace"));
    assert_eq!(request.remaining_minutes, Some(43200));
    assert_eq!(request.previous_client_machine_id, None);
    assert_eq!(request.min_clients, Some(25));
}

#[test]
fn the_ancestors_cases_hold() {
    assert_eq!(Log::late().open(A).close(A).told(), ["probe 192.0.2.1"]);
    assert_eq!(Log::late().close(A).told(), Vec::<String>::new());
    for line in [&asking("", CMID)[5], &asking("", CMID)[6]] {
        assert_eq!(
            Log::late().open(A).say(line).close(A).told(),
            Vec::<String>::new(),
            "{line}"
        );
    }
    let mut held = Log::new();
    held.open(A)
        .ask("PC1", CMID)
        .open(B)
        .close(B)
        .answer(CMID)
        .open(B)
        .close(B)
        .close(A);
    assert_eq!(
        held.told(),
        [
            "probe 192.0.2.2",
            "activation 192.0.2.1 exact",
            "probe 192.0.2.2"
        ]
    );
}

#[test]
fn several_requests_of_one_connection_are_numbered() {
    let mut log = Log::new();
    log.open(A)
        .request("PC1", CMID)
        .request("PC1", CMID)
        .close(A);
    let numbers: Vec<_> = log
        .events()
        .iter()
        .filter_map(|event| event.request_number)
        .collect();
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn only_a_log_that_was_read_from_the_servers_start_is_exact() {
    assert_eq!(
        Log::late().open(A).request("PC1", CMID).told(),
        ["activation 192.0.2.1 inferred"]
    );
    // Whoever was there when the log was joined is gone after connections' longest life.
    let mut log = Log::late();
    log.open(B)
        .close(B)
        .at(700)
        .open(B)
        .close(B)
        .at(701)
        .open(A)
        .request("PC1", CMID);
    assert_eq!(
        log.told().last().map(String::as_str),
        Some("activation 192.0.2.1 exact")
    );
    // An orderly restart leaves nobody, either.
    let mut log = Log::late();
    log.open(B)
        .close(B)
        .say("vlmcsd private build was shutdown");
    log.say("vlmcsd private build started successfully")
        .open(A)
        .request("PC1", CMID);
    assert_eq!(
        log.told().last().map(String::as_str),
        Some("activation 192.0.2.1 exact")
    );
}

#[test]
fn a_connection_that_outlived_a_restart_takes_exactness_with_it() {
    let mut log = Log::new();
    log.open(B)
        .say("vlmcsd private build started successfully")
        .open(A)
        .request("PC1", CMID);
    assert_eq!(log.told(), ["activation 192.0.2.1 inferred"]);
}

#[test]
fn a_machine_stays_with_its_connection() {
    let mut log = Log::new();
    log.open(A)
        .request("PC1", CMID)
        .at(5)
        .open(B)
        .request("PC2", OTHER)
        .at(20)
        .request("PC1", CMID);
    assert_eq!(
        log.told(),
        [
            "activation 192.0.2.1 exact",
            "activation 192.0.2.2 inferred",
            "activation 192.0.2.1 inferred"
        ]
    );
}

#[test]
fn two_who_may_have_asked_are_both_named_and_wait_for_more() {
    let mut log = Log::new();
    log.open(A).open(B).request("PC1", CMID);
    assert_eq!(log.told(), ["activation 192.0.2.2 ambiguous"]);
    // It waits by the log's own time, and holds back nobody else.
    let mut assembler = Assembler::new("log".into(), TimeZone::UTC);
    let first = feed(&mut assembler, &log.lines);
    assert_eq!(first.len(), 1, "the server's start alone");
    let mut later = Log::late();
    later.at(1).open("192.0.2.3:1003").close("192.0.2.3:1003");
    assert_eq!(
        tell(&feed(&mut assembler, &later.lines)[0]),
        "probe 192.0.2.3"
    );
    later.lines.clear();
    let told = feed(&mut assembler, &later.at(2).open("192.0.2.4:1").lines);
    assert_eq!(
        told.iter().map(tell).collect::<Vec<_>>(),
        ["activation 192.0.2.2 ambiguous"]
    );
    assert_eq!(told[0].candidates.len(), 2);
    assert_eq!((told[0].connection, told[0].port), (None, None));
}

#[test]
fn a_clock_that_was_set_back_keeps_nobody_waiting() {
    let mut log = Log::new();
    log.at(7200).open(A).open(B).request("PC1", CMID);
    let mut assembler = Assembler::new("log".into(), TimeZone::UTC);
    feed(&mut assembler, &log.lines);
    let mut back = Log::late();
    let told = feed(&mut assembler, &back.at(3600).open("192.0.2.4:1").lines);
    assert_eq!(
        told.iter().map(tell).collect::<Vec<_>>(),
        ["activation 192.0.2.2 ambiguous"]
    );
}

#[test]
fn without_stamps_it_waits_for_lines() {
    let mut log = Log::undated();
    log.open(A).open(B).request("PC1", CMID);
    for _ in 0..199 {
        log.say("Warning: OpNum should be 0 but is 1.");
    }
    let mut assembler = Assembler::new("log".into(), TimeZone::UTC);
    assert_eq!(feed(&mut assembler, &log.lines).len(), 1);
    let one = vec!["Warning: OpNum should be 0 but is 1.".to_owned()];
    assert_eq!(feed(&mut assembler, &one).len(), 1);
}

#[test]
fn interleaved_blocks_are_told_apart_by_their_machines() {
    let mut log = Log::new();
    log.open(A).open(B);
    let (one, two) = (asking("PC1", CMID), asking("PC2", OTHER));
    for (one, two) in one.iter().zip(&two) {
        log.say(one).say(two);
    }
    let (one, two) = (answering(CMID), answering(OTHER));
    for (one, two) in one.iter().zip(&two) {
        // The answers come the other way round.
        log.say(two).say(one);
    }
    let names: Vec<_> = log
        .events()
        .into_iter()
        .filter_map(|event| event.request)
        .map(|request| {
            (
                request.workstation,
                request.client_machine_id.map(|id| id.to_string()),
            )
        })
        .collect();
    assert_eq!(names.len(), 2);
    for pair in [("PC1", CMID), ("PC2", OTHER)] {
        assert!(
            names.contains(&(Some(pair.0.into()), Some(pair.1.into()))),
            "{names:?}"
        );
    }
}

#[test]
fn refusals_say_why() {
    let mut log = Log::new();
    log.open(A)
        .ask("PC1", CMID)
        .say("Refusing unknown product (0xC004F042)")
        .close(A);
    let events = log.events();
    let event = events
        .iter()
        .find(|event| event.kind == EventKind::Refused)
        .expect("a refusal");
    assert_eq!(event.hresult, Some(0xC004_F042));
    assert_eq!(event.reason.as_deref(), Some("Refusing unknown product"));
    assert_eq!(events.len(), 2, "and no probe");
    // Without a block before it.
    assert_eq!(
        Log::new().open(A).say("Fatal: KMSv7.0 unsupported").told(),
        ["refused 192.0.2.1 exact"]
    );
}

#[test]
fn what_gets_no_answer_is_aborted() {
    assert_eq!(
        Log::new().open(A).ask("PC1", CMID).close(A).told(),
        ["aborted 192.0.2.1 inferred"],
        "the connection closed"
    );
    let ended = Log::new()
        .open(A)
        .ask("PC1", CMID)
        .say("vlmcsd private build was shutdown")
        .told();
    assert_eq!(ended, ["aborted 192.0.2.1 exact"], "the server ended");
    assert_eq!(
        Log::new().open(A).ask("PC1", CMID).told(),
        Vec::<String>::new(),
        "the log ended"
    );
}

#[test]
fn a_public_address_is_dropped_and_is_no_probe() {
    let mut log = Log::new();
    log.open("203.0.113.9:1")
        .say("Client with public IP address rejected")
        .close("203.0.113.9:1");
    assert_eq!(log.told(), ["dropped 203.0.113.9"]);
}

#[test]
fn quiet_requests() {
    let mut log = Log::new();
    log.open(A)
        .say("KMS v6.0 request from PC for Ana for Windows 10 Enterprise for Virtual Desktops")
        .say("Sending ePID (randomized at program start): 06401-00206")
        .say("KMS v6.0 request from PC1 for 73111121-5638-40f6-bc11-f1d7b0d64300")
        .say("Sending ePID (randomized at program start): 06401-00206")
        .say("KMS v6.0 request from PC1 for Something New 2030")
        .say("Refusing unknown product (0xC004F042)");
    let told: Vec<_> = log
        .events()
        .into_iter()
        .filter_map(|event| event.request)
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|r| (r.workstation.as_deref(), r.product.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            (
                Some("PC for Ana"),
                Some("Windows 10 Enterprise for Virtual Desktops")
            ),
            (Some("PC1"), Some("Windows 10/11 Enterprise")),
            (Some("PC1"), Some("Something New 2030")),
        ]
    );
}

#[test]
fn marks_name_the_connection_whatever_else_is_open() {
    let mut log = Log::new();
    log.say("IPv4 connection accepted: 192.0.2.1:1001. [c=7]");
    log.say("IPv4 connection accepted: 192.0.2.2:1002. [c=8]");
    let mut lines = asking("PC1", CMID);
    lines[0] += " [c=7]";
    lines.extend(answering(CMID));
    lines[13] += " [c=7]";
    for line in lines {
        log.say(&line);
    }
    log.say("Relayed request: v6.0, protected, outcome refused 0xC004F042 [c=8]");
    assert_eq!(
        log.told(),
        ["activation 192.0.2.1 exact", "refused 192.0.2.2 exact"]
    );
}

#[test]
fn marks_name_the_connection_of_quiet_lines() {
    let mut log = Log::new();
    log.say("IPv4 connection accepted: 192.0.2.1:1001. [c=7]")
        .say("IPv4 connection accepted: 192.0.2.2:1002. [c=8]")
        .say("IPv4 connection accepted: 192.0.2.3:1003. [c=9]")
        .say("KMS v6.0 request from PC [c=8] for Windows 10 Enterprise [c=7]")
        .say("Sending ePID (command line): 06401-00206 [c=7]")
        .say("KMS v6.0 request from PC2 for Windows 10 Enterprise [c=8]")
        .say("Refusing unknown product (0xC004F042)");
    let mut events = log.events();
    events.retain(|event| event.request.is_some());
    let first = events[0].request.as_ref().unwrap();
    assert_eq!(first.workstation.as_deref(), Some("PC [c=8]"));
    assert_eq!(first.product.as_deref(), Some("Windows 10 Enterprise"));
    assert_eq!(events[0].epid.as_deref(), Some("06401-00206"));
    assert_eq!(
        log.told(),
        ["activation 192.0.2.1 exact", "refused 192.0.2.2 exact"]
    );
}

#[test]
fn a_mark_that_a_client_made_up_is_text() {
    let mut log = Log::new();
    log.open(A).say("KMS v6.0 request from PC [c=1]");
    log.say(" for Windows 10 Enterprise")
        .say("Sending ePID (command line): 06401-00206");
    assert_eq!(log.told(), ["activation 192.0.2.1 exact"]);
}

#[test]
fn nobody_is_named_where_more_may_have_asked_than_are_weighed() {
    let mut log = Log::new();
    for n in 1..=200 {
        log.say(&format!("IPv4 connection accepted: 192.0.2.{n}:1001."));
    }
    // The first asks, and the one that everything speaks for closes.
    log.say("KMS v6.0 request from PC for Windows 10 Enterprise")
        .say("Sending ePID (command line): 06401-00206")
        .say("IPv4 connection closed: 192.0.2.200:1001.");
    let events = log.events();
    let asked = events.iter().find(|event| event.request.is_some()).unwrap();
    assert_eq!(asked.attribution, Some(Attribution::Ambiguous));
}

#[test]
fn ms_rpc_builds_tell_an_address_for_every_request() {
    let mut log = Log::new();
    for (ip, cmid) in [
        ("192.0.2.1", CMID),
        ("192.0.2.2", OTHER),
        ("192.0.2.1", CMID),
    ] {
        log.say(&format!("RPC connection accepted: {ip}"))
            .request("PC", cmid);
    }
    log.say("RPC connection accepted: Unknown IP")
        .request("PC9", OTHER);
    let told = log.told();
    assert_eq!(
        told[..3],
        [
            "activation 192.0.2.1 exact",
            "activation 192.0.2.2 exact",
            "activation 192.0.2.1 exact"
        ]
    );
    assert_eq!(told[3], "activation unknown");
}

/// A syslog line of one process.
fn by(pid: u32, text: &str) -> (u32, String) {
    (pid, text.to_owned())
}

fn by_process(lines: &[(u32, String)]) -> Vec<String> {
    let mut assembler = Assembler::new("log".into(), TimeZone::UTC);
    let ids = IdMaker::new(b"");
    let mut events = Vec::new();
    for (offset, (pid, line)) in lines.iter().enumerate() {
        let raw = format!("Mar 14 09:26:53 host vlmcsd[{pid}]: {line}");
        let line = Input {
            text: line.as_bytes(),
            raw: raw.as_bytes(),
            pid: Some(*pid),
            ..input(&ids, offset as u64, b"")
        };
        assembler.handle_line(&line, &mut events);
    }
    assembler.finish(false, &mut events);
    events
        .iter()
        .filter(|event| event.kind.is_request())
        .map(tell)
        .collect()
}

#[test]
fn a_process_of_its_own_names_the_connection_and_a_shared_one_does_not() {
    let blocks = |pid| -> Vec<(u32, String)> {
        asking("PC1", CMID)
            .into_iter()
            .chain(answering(CMID))
            .map(|line| (pid, line))
            .collect()
    };
    let start = by(1, "vlmcsd svn1113, built x started successfully");
    let open = |pid, peer: &str| by(pid, &format!("IPv4 connection accepted: {peer}."));
    let mut fork = vec![start.clone(), open(11, A), open(12, B)];
    fork.extend(blocks(11));
    assert_eq!(by_process(&fork), ["activation 192.0.2.1 exact"]);
    let mut threads = vec![start, open(1, A), open(1, B)];
    threads.extend(blocks(1));
    assert_eq!(by_process(&threads), ["activation 192.0.2.2 ambiguous"]);
    // Joined late, one process says nothing about what else is open.
    let mut late = vec![open(1, A)];
    late.extend(blocks(1));
    assert_eq!(by_process(&late), ["activation 192.0.2.1 inferred"]);
}

#[test]
fn a_name_forges_no_connection_no_request_and_no_end() {
    for forged in [
        "x\nIPv4 connection accepted: 8.8.8.8:9.",
        "x\nIPv4 connection closed: 192.0.2.2:1002.",
        "x\n<<< Incoming KMS request",
        "x\nRefusing unknown product (0xC004F042)",
        "x\nN count policy (minimum clients): 9",
        "x\nvlmcsd y was shutdown",
        "\n\n\n",
        "x\r\nLicensing status                : 1 (Licensed)",
    ] {
        for mut log in [Log::new(), Log::undated()] {
            log.open(B)
                .open(A)
                .close(B)
                .open(B)
                .request(forged, CMID)
                .close(A)
                .close(B);
            let told = log.told();
            assert!(
                told.contains(&"probe 192.0.2.2".to_owned()),
                "{forged:?}: {told:?}"
            );
            let real: Vec<_> = told
                .iter()
                .filter(|told| !told.ends_with("suspect"))
                .collect();
            assert_eq!(real.len(), 3, "{forged:?}: {told:?}");
            let counts: Vec<_> = log
                .events()
                .iter()
                .filter_map(|e| e.request.as_ref()?.min_clients)
                .collect();
            assert_eq!(counts, [25], "{forged:?}");
        }
    }
}

#[test]
fn a_real_line_after_a_name_is_not_lost() {
    // Another client's lines, each short enough to be part of the name.
    let mut log = Log::undated();
    log.open(A);
    let lines = asking("PC1", CMID);
    let (before, after) = lines.split_at(12);
    for line in before {
        log.say(line);
    }
    log.open(B);
    for line in after.iter().chain(&answering(CMID)) {
        log.say(line);
    }
    log.close(B).close(A);
    let told = log.told();
    assert!(told.contains(&"probe 192.0.2.2".to_owned()), "{told:?}");
    assert!(
        told.iter()
            .any(|told| told.starts_with("activation 192.0.2.1")),
        "{told:?}"
    );
}

#[test]
fn a_quiet_name_goes_on_until_its_product() {
    let mut log = Log::undated();
    log.open(A)
        .say("KMS v6.0 request from y")
        .say("KMS v6.0 request from EVIL for Windows 7 Professional for Office Professional Plus 2016")
        .say("Sending ePID (randomized at program start): 06401-00206")
        .close(A);
    assert_eq!(log.told(), ["activation 192.0.2.1 exact"]);
    let events = log.events();
    let request = events
        .iter()
        .find_map(|event| event.request.as_ref())
        .expect("a request");
    assert_eq!(
        request.product.as_deref(),
        Some("Office Professional Plus 2016")
    );
}

#[test]
fn tables_are_bounded_and_say_what_they_forget() {
    let mut assembler = Assembler::new("log".into(), TimeZone::UTC);
    let opens: Vec<String> = (0..6000)
        .map(|n| format!("IPv4 connection accepted: 192.0.2.1:{n}."))
        .collect();
    feed(&mut assembler, &opens);
    assert_eq!(assembler.take_counters().evicted_connections, 6000 - 4096);
    let begins = vec!["<<< Incoming KMS request".to_owned(); 300];
    feed(&mut assembler, &begins);
    assert_eq!(assembler.take_counters().evicted_blocks, 300 - 256);
}

#[test]
fn when_too_many_wait_the_oldest_are_decided_together() {
    let mut assembler = Assembler::new("log".into(), TimeZone::UTC);
    let mut lines: Vec<String> = (0..100)
        .map(|n| format!("IPv4 connection accepted: 192.0.2.{n}:1024."))
        .collect();
    let request = |n: u32| {
        [
            format!("KMS v6.0 request from PC{n} for Windows 7 Professional"),
            "Sending ePID (x): y".into(),
        ]
    };
    lines.extend((0..64).flat_map(request));
    let decided = feed(&mut assembler, &lines);
    assert!(decided.is_empty(), "anybody may have asked: {decided:?}");
    let [begin, answer] = request(64);
    // It shows that the line before it was an answer.
    let next = "IPv4 connection accepted: 192.0.2.100:1024.".into();
    let decided = feed(&mut assembler, &[begin, answer, next]);
    let names: Vec<_> = decided
        .iter()
        .filter_map(|event| event.request.as_ref()?.workstation.as_deref())
        .collect();
    let oldest: Vec<_> = (0..16).map(|n| format!("PC{n}")).collect();
    assert_eq!(names, oldest);
    assert_eq!(assembler.take_counters().evicted_requests, 16);
    // All others get their turn.
    let mut rest = Vec::new();
    assembler.finish(false, &mut rest);
    let requests = rest.iter().filter(|event| event.request.is_some());
    assert_eq!(requests.count(), 65 - 16);
}

proptest! {
    /// Lines of real logs in any order, damaged or not: nothing panics, every line
    /// is counted once, and nothing that only a forger could have said is exact.
    #[test]
    fn any_order_of_lines_is_survived(
        picks in proptest::collection::vec((0..32_usize, any::<bool>(), any::<u8>()), 0..120)
    ) {
        let mut lines = asking("x\n<<< Incoming KMS request", CMID);
        lines.extend(answering(CMID));
        lines.extend([
            format!("IPv4 connection accepted: {A}."),
            format!("IPv4 connection closed: {A}."),
            format!("IPv4 connection accepted: {B}."),
            format!("IPv4 connection closed: {B}."),
            "RPC connection accepted: 192.0.2.9".into(),
            "Client with public IP address rejected".into(),
            "Refusing unknown product (0xC004F042)".into(),
            "KMS v6.0 request from PC1 for Windows 7 Professional".into(),
            "Sending ePID (x): y".into(),
            "vlmcsd x started successfully".into(),
        ]);
        let lines: Vec<String> = picks
            .iter()
            .map(|(n, dated, damage)| {
                let mut line = lines[n % lines.len()].clone();
                if *damage > 250 {
                    line.truncate(usize::from(*damage) % (line.len() + 1));
                }
                if *dated { format!("2026-03-14 09:26:{:02}: {line}", n % 60) } else { line }
            })
            .collect();
        let mut assembler = Assembler::new("log".into(), TimeZone::UTC);
        let mut events = feed(&mut assembler, &lines);
        assembler.finish(true, &mut events);
        let counted: u64 = assembler.take_counters().lines.iter().sum();
        prop_assert_eq!(counted, lines.len() as u64);
        for event in &events {
            prop_assert!(event.attribution != Some(Attribution::Exact) || event.ip.is_some());
            let hedged = event.attribution == Some(Attribution::Ambiguous);
            prop_assert_eq!(hedged, !event.candidates.is_empty(), "{:?}", event);
        }
    }
}
