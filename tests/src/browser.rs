//! A real browser, driven over WebDriver: Chromium without a window.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::DEADLINE;

/// A browser with one empty page; gone when dropped.
pub struct Browser {
    driver: Child,
    // Kept open: what it says later is no reason for it to end.
    _output: BufReader<ChildStdout>,
    session: String,
    agent: ureq::Agent,
    // Chromium keeps no directory it was given, and this one is removed at the end.
    _profile: TempDir,
}

impl Browser {
    /// Starts one; `None` where `chromedriver` is not installed.
    ///
    /// # Panics
    /// When it is installed and does not work.
    #[must_use]
    pub fn start() -> Option<Self> {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut output = BufReader::new(driver.stdout.take().expect("stdout is piped"));
        let said = |line: &str| {
            line.rsplit_once(" successfully on port ")?
                .1
                .trim_end_matches('.')
                .parse()
                .ok()
        };
        let port: Option<u16> = output
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .find_map(|line| said(&line));
        let port = port.expect("chromedriver says its port");
        let profile = TempDir::new().expect("a directory for the profile");
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE * 4))
            .build()
            .new_agent();
        let mut browser = Self {
            driver,
            _output: output,
            session: format!("http://127.0.0.1:{port}/session"),
            agent,
            _profile: profile,
        };
        let profile = browser._profile.path().display();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={profile}"),
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = browser.post("", &capabilities);
        let id = text(&session, "/sessionId");
        browser.session = format!("{}/{id}", browser.session);
        // What it showed at first was its own.
        browser.open("about:blank");
        let _ = browser.requests();
        Some(browser)
    }

    /// Loads a page and waits until it is there.
    ///
    /// # Panics
    /// When it cannot be loaded, as all of these where the browser refuses.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// The value of a JavaScript expression. The page's policy does not bind it.
    ///
    /// # Panics
    /// As above.
    #[must_use]
    pub fn value(&self, expression: &str) -> Value {
        let script = format!("return {expression};");
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Clicks on the first element that a CSS selector finds, and waits for the
    /// page it leads to.
    ///
    /// # Panics
    /// When there is none.
    pub fn click(&self, selector: &str) {
        let using = json!({ "using": "css selector", "value": selector });
        let element = self.post("/element", &using);
        let id = element
            .as_object()
            .and_then(|element| element.values().next()?.as_str())
            .expect("an element has an id");
        self.post(&format!("/element/{id}/click"), &json!({}));
    }

    /// Shows pages at this size in CSS pixels, dark or light.
    ///
    /// # Panics
    /// As above.
    pub fn view(&self, width: u32, height: u32, scheme: &str) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.command("Emulation.setDeviceMetricsOverride", &metrics);
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.command("Emulation.setEmulatedMedia", &media);
    }

    /// Turns the page's own scripts on or off.
    ///
    /// # Panics
    /// As above.
    pub fn scripts(&self, on: bool) {
        self.command(
            "Emulation.setScriptExecutionDisabled",
            &json!({ "value": !on }),
        );
    }

    /// What is seen, as a PNG in base64.
    ///
    /// # Panics
    /// As above.
    #[must_use]
    pub fn screenshot(&self) -> String {
        let shot = self.command("Page.captureScreenshot", &json!({ "format": "png" }));
        text(&shot, "/data").to_owned()
    }

    /// What the console said since it was last asked.
    ///
    /// # Panics
    /// As above.
    #[must_use]
    pub fn console(&self) -> Vec<String> {
        self.log("browser")
    }

    /// The URLs that were asked for since this was last asked.
    ///
    /// # Panics
    /// As above.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let entries = self.log("performance");
        let url = |entry: &String| {
            let entry: Value = serde_json::from_str(entry).expect("an entry is JSON");
            let is_request = text(&entry, "/message/method") == "Network.requestWillBeSent";
            is_request.then(|| text(&entry, "/message/params/request/url").to_owned())
        };
        entries.iter().filter_map(url).collect()
    }

    fn log(&self, kind: &str) -> Vec<String> {
        let entries = self.post("/se/log", &json!({ "type": kind }));
        let entries = entries.as_array().expect("a log is a list").iter();
        entries
            .map(|entry| text(entry, "/message").to_owned())
            .collect()
    }

    /// A command of the DevTools protocol.
    fn command(&self, name: &str, parameters: &Value) -> Value {
        let body = json!({ "cmd": name, "params": parameters });
        self.post("/goog/cdp/execute", &body)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.session);
        let answer = self
            .agent
            .post(&url)
            .header("content-type", "application/json")
            .send(body.to_string());
        let mut answer = answer.unwrap_or_else(|e| panic!("{url}: {e}"));
        let text = answer
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string()
            .expect("the answer is text");
        let mut answered: Value = serde_json::from_str(&text).expect("the answer is JSON");
        assert_eq!(answer.status().as_u16(), 200, "{url}: {text}");
        answered
            .pointer_mut("/value")
            .expect("an answer has a value")
            .take()
    }
}

/// The text at this place.
fn text<'a>(value: &'a Value, place: &str) -> &'a str {
    let text = value.pointer(place).and_then(Value::as_str);
    text.unwrap_or_else(|| panic!("no text at {place}: {value}"))
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium; a driver that is killed would leave it behind. Whether it
        // did is no matter of the test's.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
