//! The real `kms-notifier` as a child process.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::{DEADLINE, Watch};

/// What a process has written to one of its outputs.
#[derive(Debug, Default)]
struct Output {
    lines: Vec<String>,
    closed: bool,
}

/// A running `kms-notifier` or `kms-core` (or whatever command it was given); killed when dropped.
pub struct Sidecar {
    child: Child,
    stdout: Arc<Watch<Output>>,
    stderr: Arc<Watch<Output>>,
    exited: Arc<Watch<bool>>,
}

impl Sidecar {
    /// Starts `command` (see [`crate::notifier`]) and collects what it writes.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_into(command, Stdio::piped())
    }

    /// The same with its standard output going elsewhere: none of it is collected.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn_into(command: &mut Command, stdout: impl Into<Stdio>) -> Self {
        let mut child = command
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let stdout = match child.stdout.take() {
            Some(stdout) => collect(stdout),
            None => collect(std::io::empty()),
        };
        let stderr = collect(child.stderr.take().expect("stderr is piped"));
        let exited = Arc::new(Watch::new(false));
        let (told, pid) = (Arc::clone(&exited), Pid::from_child(&child));
        thread::spawn(move || {
            // Leaves the process to be reaped by its owner, so its id stays its
            // own for as long as a signal may be sent.
            let waited = waitid(
                WaitId::Pid(pid),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            );
            // One that was dropped may be reaped already: it has ended all the same.
            assert!(
                matches!(waited, Ok(_) | Err(Errno::CHILD)),
                "cannot wait for one's own child: {waited:?}"
            );
            told.update(|exited| *exited = true);
        });
        Self {
            child,
            stdout,
            stderr,
            exited,
        }
    }

    /// Its standard input, if the command piped it; dropping it is the end of
    /// the file.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits for a line on standard output that `is` it, and returns the first.
    ///
    /// # Panics
    /// When the deadline passes or the output ends first.
    pub fn wait_for_line(&self, is: impl FnMut(&str) -> bool) -> String {
        self.wait_for(&self.stdout, "a line on stdout", is)
    }

    /// Waits for a line on standard error that `is` it, and returns the first.
    ///
    /// # Panics
    /// When the deadline passes or the output ends first.
    pub fn wait_for_log(&self, is: impl FnMut(&str) -> bool) -> String {
        self.wait_for(&self.stderr, "a line on stderr", is)
    }

    /// Waits until standard output has at least `n` lines, and returns all.
    ///
    /// # Panics
    /// When the deadline passes first.
    #[must_use]
    pub fn wait_for_lines(&self, n: usize) -> Vec<String> {
        self.stdout
            .wait_for(&format!("{n} lines on stdout; {self:?}"), |output| {
                (output.lines.len() >= n).then(|| output.lines.clone())
            })
    }

    fn wait_for(
        &self,
        output: &Watch<Output>,
        what: &str,
        mut is: impl FnMut(&str) -> bool,
    ) -> String {
        let found = output.wait_for(what, |output| {
            match output.lines.iter().find(|line| is(line)) {
                Some(line) => Some(Some(line.clone())),
                None => output.closed.then_some(None),
            }
        });
        found.unwrap_or_else(|| panic!("the output ended without {what} as wanted; {self:?}"))
    }

    /// The lines of standard output so far.
    #[must_use]
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lock().lines.clone()
    }

    /// The lines of standard error so far.
    #[must_use]
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().lines.clone()
    }

    /// The port of its metrics, from the first line of its log that has
    /// `metrics` and a socket address in it.
    ///
    /// # Panics
    /// When no such line comes.
    #[must_use]
    pub fn metrics_port(&self) -> u16 {
        let line = self.wait_for_log(|line| line.contains("metrics") && address(line).is_some());
        address(&line)
            .expect("the line was chosen for its address")
            .port()
    }

    /// Where `kms-core` listens, from the first line of its log that says so.
    ///
    /// # Panics
    /// When no such line comes.
    #[must_use]
    pub fn listening(&self) -> SocketAddr {
        let line =
            self.wait_for_log(|line| line.contains("listening on") && address(line).is_some());
        address(&line).expect("the line was chosen for its address")
    }

    /// GETs `path` from the metrics server: the status and the body.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn get(&self, path: &str, accept: &str) -> (u16, String) {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE));
        let url = format!("http://127.0.0.1:{}{path}", self.metrics_port());
        let answer = agent
            .build()
            .new_agent()
            .get(&url)
            .header("accept", accept)
            .call();
        let mut answer = answer.unwrap_or_else(|e| panic!("GET {url}: {e}; {self:?}"));
        let status = answer.status().as_u16();
        (
            status,
            answer
                .body_mut()
                .read_to_string()
                .expect("the body is text"),
        )
    }

    /// `/metrics` in the classic text format.
    ///
    /// # Panics
    /// When the answer is not 200.
    #[must_use]
    pub fn metrics(&self) -> String {
        let (status, body) = self.get("/metrics", "text/plain");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Scrapes until the sample with exactly this name and these labels, such
    /// as `kms_connection_probes_total{source="external"}`, `is` as wanted.
    ///
    /// # Panics
    /// When it never is.
    pub fn wait_for_sample(&self, series: &str, is: impl Fn(f64) -> bool) -> f64 {
        let wanted = || sample(&self.metrics(), series).filter(|value| is(*value));
        poll(wanted)
            .unwrap_or_else(|| panic!("{series} never became as wanted:\n{}", self.metrics()))
    }

    /// GETs `path` until the status is this one, and returns that answer's body.
    ///
    /// # Panics
    /// When it never is.
    pub fn wait_for_status(&self, path: &str, wanted: u16) -> String {
        poll(|| Some(self.get(path, "*/*")).filter(|(status, _)| *status == wanted))
            .map(|(_, body)| body)
            .unwrap_or_else(|| panic!("{path} never answered {wanted}; {self:?}"))
    }

    /// Whether it has ended by itself, or is as good as that.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        *self.exited.lock()
    }

    /// Its process id, until [`Self::wait`].
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. Not after [`Self::wait`]: the process id is free then.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("one's own child takes signals");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGINT, as from Ctrl-C.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// SIGKILL: a crash, as far as anybody can tell.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Waits for its end and for all it wrote.
    ///
    /// # Panics
    /// When the deadline passes first.
    pub fn wait(&mut self) -> ExitStatus {
        self.exited
            .wait_for(&format!("the end of {self:?}"), |exited| {
                exited.then_some(())
            });
        for output in [&self.stdout, &self.stderr] {
            output.wait_for("the end of an output", |output| output.closed.then_some(()));
        }
        self.child
            .wait()
            .expect("one's own child can be waited for")
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Fails only for a child that has been waited for.
        if self.child.kill().is_ok() {
            self.child.wait().expect("a killed child ends");
        }
    }
}

impl fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        write!(
            f,
            "process {}, stdout {stdout:#?}, stderr {stderr:#?}",
            self.child.id()
        )
    }
}

fn collect(from: impl Read + Send + 'static) -> Arc<Watch<Output>> {
    let output = Arc::new(Watch::new(Output::default()));
    let shared = Arc::clone(&output);
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let line = line.expect("a pipe can be read");
            shared.update(|output| {
                output
                    .lines
                    .push(String::from_utf8_lossy(&line).into_owned())
            });
        }
        shared.update(|output| output.closed = true);
    });
    output
}

/// Asks again and again until there is an answer: for what only a request, or a
/// look into a file, can see. None when the deadline passes first.
pub fn poll<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 0..DEADLINE.as_millis() / PAUSE.as_millis() {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        thread::sleep(PAUSE);
    }
    None
}

/// The first socket address in a line of the log, alone, in a URL or quoted.
fn address(line: &str) -> Option<SocketAddr> {
    let words = line.split(|c: char| c.is_whitespace() || "=\"/,()".contains(c));
    words.filter_map(|word| word.parse().ok()).next()
}

/// The value of one series in the classic text format.
fn sample(metrics: &str, series: &str) -> Option<f64> {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::{Sidecar, Signal, address, sample};

    fn shell(script: &str) -> Sidecar {
        Sidecar::spawn(
            Command::new("sh")
                .args(["-c", script])
                .stdin(Stdio::piped()),
        )
    }

    #[test]
    fn lines_are_collected_from_both_outputs_until_the_end() {
        let mut process =
            shell("echo ready; read line; echo got $line; echo metrics on [::]:43121 >&2; exit 3");
        assert_eq!(
            process.wait_for_line(|line| line.starts_with("re")),
            "ready"
        );
        process.stdin().unwrap().write_all(b"it\n").unwrap();
        assert_eq!(process.wait_for_lines(2), ["ready", "got it"]);
        assert_eq!(process.metrics_port(), 43121);
        assert_eq!(process.wait().code(), Some(3));
        assert_eq!(process.stderr(), ["metrics on [::]:43121"]);
    }

    #[test]
    fn signals_arrive() {
        // None of those that a process in the background may be told to ignore.
        for (signal, number) in [(Signal::TERM, 15), (Signal::USR1, 10), (Signal::KILL, 9)] {
            let mut process = shell("echo ready; read line");
            let _open = process.stdin();
            process.wait_for_line(|line| line == "ready");
            process.signal(signal);
            assert_eq!(process.wait().signal(), Some(number));
        }
    }

    #[test]
    #[should_panic(expected = "the output ended without")]
    fn a_line_that_cannot_come_any_more_is_not_waited_for() {
        shell("echo other").wait_for_line(|line| line == "wanted");
    }

    #[test]
    fn ports_and_samples_are_found_in_text() {
        let port = |line| address(line).map(|address| address.port());
        assert_eq!(
            port("2026-01-01T00:00:00Z INFO metrics: listening address=0.0.0.0:9101"),
            Some(9101)
        );
        assert_eq!(port("metrics: http://[::]:43121/metrics"), Some(43121));
        assert_eq!(
            port("2026-01-01T12:34:56.789Z {\"metrics\":\"[::1]:9\"}"),
            Some(9)
        );
        assert_eq!(
            port("2026-01-01T12:34:56.789Z 12:34:56 metrics: none"),
            None
        );
        let text = "# TYPE a counter\na{x=\"1\"} 2\nab 3\na 4\n";
        assert_eq!(sample(text, "a"), Some(4.0));
        assert_eq!(sample(text, "a{x=\"1\"}"), Some(2.0));
        assert_eq!(sample(text, "b"), None);
    }
}
