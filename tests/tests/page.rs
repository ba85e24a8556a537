//! The status page in a real browser: what a client wrote stays text, nothing is
//! asked of anybody else, and it works without scripts.
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use e2e::{Browser, LogWriter, Recording, Sidecar, Visit, notifier, recordings};
use tempfile::TempDir;

/// Names that would do something if a page took them for more than text.
const HOSTILE: [&str; 5] = [
    "<script>document.title='owned'</script>",
    "<img src=http://192.0.2.9/ onerror=alert(1)>",
    "</bdi></table><style>*{display:none}",
    "\" onmouseover=\"alert(1)\" x=\"",
    "{{ 7 * 7 }}\u{202E}fdp.exe",
];

/// Follows logs from their start until all of them were read.
fn follow(dir: &TempDir, recordings: &[Recording], arguments: &[&str]) -> Sidecar {
    let mut log = LogWriter::open(dir.path().join("names.log"));
    for name in HOSTILE {
        let visit = Visit {
            name,
            ..Visit::from("192.0.2.66")
        };
        log.bytes(visit.activation() + &visit.probe());
    }
    let mut command = notifier();
    command.args(["run", "--from", "start"]).args(arguments);
    command.arg("--log").arg(log.path());
    for recording in recordings {
        command.arg("--log").arg(&recording.path);
    }
    let sidecar = Sidecar::spawn(&mut command);
    for name in recordings.iter().map(|r| r.name.as_str()).chain(["names"]) {
        let series = format!("kms_notifier_last_line_timestamp_seconds{{log=\"{name}.log\"}}");
        sidecar.wait_for_sample(&series, |_| true);
    }
    sidecar
}

fn browser() -> Option<Browser> {
    let browser = Browser::start();
    if browser.is_none() {
        println!("skipped: chromedriver is not here (packages chromium, chromium-driver)");
    }
    browser
}

#[test]
fn nothing_that_a_client_wrote_does_anything() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut hostile = recordings();
    hostile.retain(Recording::is_hostile);
    assert!(hostile.len() > 2);
    let sidecar = follow(&dir, &hostile, &[]);
    let page = format!("http://127.0.0.1:{}/", sidecar.metrics_port());
    for path in [
        "",
        "?kind=activation",
        "?kind=%22%3E%3Cscript%3E",
        "?kind=<script>",
    ] {
        browser.open(&format!("{page}{path}"));
        assert_eq!(browser.value("document.title"), "KMS notifier");
        let foreign = "document.querySelectorAll('script, img, iframe, object, [onmouseover], \
                       [onerror], [style], body style').length";
        assert_eq!(browser.value(foreign), 0);
        // Its own style is in force, so the policy lets it in.
        let display = "getComputedStyle(document.querySelector('.cards')).display";
        assert_eq!(browser.value(display), "grid");
        // Every table is where it belongs: nobody closed one.
        let rows = "document.querySelectorAll('main table.events tbody tr').length";
        assert!(browser.value(rows).as_u64().unwrap() > 0);
    }
    browser.open(&format!("{page}?kind=activation"));
    let text = browser.value("document.querySelector('.events').innerText");
    let text = text.as_str().unwrap();
    for name in HOSTILE {
        let shown = name.replace('\u{202E}', "\u{FFFD}");
        assert!(text.contains(&shown), "{shown}: {text}");
    }
    assert_eq!(browser.console(), [""; 0]);
    let asked = browser.requests();
    assert!(!asked.is_empty());
    for url in asked {
        // The empty icon is no request to anybody.
        assert!(url.starts_with(&page) || url == "data:,", "{url}");
    }
}

#[test]
fn a_filter_works_without_scripts_and_fits_a_phone() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let sidecar = follow(&dir, &[Recording::named("svn1113-refused")], &[]);
    let page = format!("http://127.0.0.1:{}/", sidecar.metrics_port());
    browser.scripts(false);
    for (width, scheme) in [
        (390, "light"),
        (390, "dark"),
        (1280, "light"),
        (1280, "dark"),
    ] {
        browser.view(width, 900, scheme);
        browser.open(&page);
        browser.click("nav a[href='/?kind=probe']");
        assert_eq!(browser.value("location.search"), "?kind=probe");
        let kinds = "[...new Set([...document.querySelectorAll('.events b')]\
                     .map(b => b.textContent))].join()";
        assert_eq!(browser.value(kinds), "Probe");
        let current = "document.querySelector('nav a[aria-current]').textContent";
        let current = browser.value(current);
        assert!(current.as_str().unwrap().starts_with("Probe "), "{current}");
        // Nothing is wider than the screen.
        let wide = "document.documentElement.scrollWidth - innerWidth";
        assert!(browser.value(wide).as_i64().unwrap() <= 0, "{width}");
        // Reloading by itself asks for the same address; whoever reads may stop it.
        let refresh = "document.querySelector('meta[http-equiv=refresh]')?.content ?? ''";
        assert_eq!(browser.value(refresh), "30");
        browser.click("header a[href='/?kind=probe&refresh=off']");
        assert_eq!(browser.value(refresh), "");
        assert_eq!(browser.value(kinds), "Probe");
    }
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn every_text_can_be_told_from_its_ground() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let sidecar = follow(&dir, &[Recording::named("svn1113-refused")], &[]);
    let page = format!("http://127.0.0.1:{}/", sidecar.metrics_port());
    // WCAG 2.1, 1.4.3: 4.5 to 1, by relative luminance.
    let worst = "(() => {
        const part = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const light = c => 0.2126 * part(c[0]) + 0.7152 * part(c[1]) + 0.0722 * part(c[2]);
        const rgb = text => text.match(/[\\d.]+/g).map(Number);
        const ground = e => {
            for (; e; e = e.parentElement) {
                const c = rgb(getComputedStyle(e).backgroundColor);
                if (c.length === 3) return c;
            }
            return [255, 255, 255];
        };
        let worst = [99, ''];
        for (const e of document.querySelectorAll('body *:not(svg, svg *)')) {
            if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
            const pair = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
            const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 80)];
        }
        return worst;
    })()";
    for scheme in ["light", "dark"] {
        browser.view(1280, 900, scheme);
        browser.open(&page);
        let found = browser.value(worst);
        let ratio = found[0].as_f64().unwrap();
        assert!((4.5..21.1).contains(&ratio), "{scheme}: {found}");
    }
}

#[test]
fn there_is_no_page_where_none_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = follow(&dir, &[], &["--no-page"]);
    assert_eq!(sidecar.get("/", "*/*").0, 404);
    assert_eq!(sidecar.get("/metrics", "*/*").0, 200);
    let sidecar = follow(&dir, &[], &[]);
    let (status, html) = sidecar.get("/", "text/html");
    assert_eq!(status, 200);
    assert!(html.ends_with("</html>"), "{html}");
}

/// Not a test: pictures for whoever works on the page, into `$PAGE_PICTURES`.
#[test]
#[ignore = "makes pictures to look at"]
fn pictures() {
    let directory = std::env::var("PAGE_PICTURES").expect("PAGE_PICTURES is a directory");
    let browser = Browser::start().expect("chromedriver is installed");
    let dir = tempfile::tempdir().unwrap();
    let names = ["svn1113-refused", "svn1113-hostile", "svn1113-threads-held"];
    let sidecar = follow(&dir, &names.map(Recording::named), &[]);
    let page = format!("http://127.0.0.1:{}/", sidecar.metrics_port());
    for (width, height) in [(390, 2600), (1280, 1300)] {
        for scheme in ["light", "dark"] {
            browser.view(width, height, scheme);
            for kind in ["", "activation"] {
                browser.open(&format!("{page}?kind={kind}"));
                let file = format!("{directory}/{width}-{scheme}-{kind}.png.base64");
                std::fs::write(file, browser.screenshot()).unwrap();
            }
        }
    }
}
