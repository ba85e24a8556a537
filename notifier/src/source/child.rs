//! A server started as a child, whose standard output is the log.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::stream::spawn_reader;
use super::wake::Waker;

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {command:?}: {source}; give a program that exists and may be run after --")]
pub struct SpawnError {
    /// The program as it was named.
    pub command: OsString,
    /// What the system said.
    pub source: io::Error,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
    /// The system did not tell.
    Unknown,
}

impl Exit {
    /// The code to end with in its place, as a shell has it: its own, 128 and the
    /// signal's number, or 1.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
            Self::Unknown => 1,
        }
    }

    fn of(status: io::Result<ExitStatus>) -> Self {
        let Ok(status) = status else {
            return Self::Unknown;
        };
        let small = |number: i32| u8::try_from(number).ok();
        match (
            status.code().and_then(small),
            status.signal().and_then(small),
        ) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

/// A child that runs or has ended. Dropping it leaves it alone.
///
/// Its lines come as chunks to the waker it was started with, which is also woken
/// when it ends. Standard error is inherited.
#[derive(Clone, Debug)]
pub struct Child {
    pid: Pid,
    /// Set once the child has been waited for; its pid may then belong to others.
    exit: Arc<Mutex<Option<Exit>>>,
}

impl Child {
    /// Starts a program and reads its standard output.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(command: &OsStr, args: &[OsString], waker: &Waker) -> Result<Self, SpawnError> {
        Self::start(command, args, waker).map_err(|source| SpawnError {
            command: command.to_owned(),
            source,
        })
    }

    fn start(command: &OsStr, args: &[OsString], waker: &Waker) -> io::Result<Self> {
        let mut process = Command::new(command)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().expect("standard output is a pipe");
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let child = Self {
            pid: pid.expect("a child has a pid"),
            exit: Arc::default(),
        };
        let (ended, waiting_waker) = (child.clone(), waker.clone());
        thread::Builder::new()
            .name("child".to_owned())
            .spawn(move || {
                ended.wait_for(process);
                waiting_waker.changed();
            })
            .and_then(|_| spawn_reader("child-output", waker.clone(), move || output))
            // A child that nobody reads or waits for must not go on.
            .inspect_err(|_| drop(child.signal(Signal::KILL)))?;
        Ok(child)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends it a signal; one that has ended gets none.
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // Held while sending, so that the pid cannot become another process's.
        let exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        match *exit {
            Some(_) => Ok(()),
            None => Ok(kill_process(self.pid, signal)?),
        }
    }

    fn wait_for(&self, mut process: process::Child) {
        // First without taking the child's pid back, then with it under the lock.
        let leave = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(self.pid), leave), Err(Errno::INTR)) {}
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        *exit = Some(Exit::of(process.wait()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::source::wake::{Wake, Woken};

    /// Long enough for any machine; no test waits for it to pass.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn shell(script: &str, waker: &Waker) -> Child {
        Child::spawn(OsStr::new("sh"), &["-c".into(), script.into()], waker).unwrap()
    }

    /// Everything the child prints, and how it ends.
    fn run(child: &Child, wake: &mut Wake) -> (Vec<u8>, Exit) {
        let (mut output, mut over) = (Vec::new(), false);
        loop {
            match wake.wait(PATIENCE) {
                Woken::Data(chunk) => output.extend(chunk),
                Woken::End(result) => {
                    result.unwrap();
                    over = true;
                }
                Woken::Changed => {}
                other => panic!("{other:?}"),
            }
            if let (true, Some(exit)) = (over, child.exit()) {
                return (output, exit);
            }
        }
    }

    #[test]
    fn output_and_exit_code() {
        let mut wake = Wake::new();
        let child = shell("echo one; printf two; exit 7", &wake.waker());
        let (output, exit) = run(&child, &mut wake);
        assert_eq!(
            (output.as_slice(), exit, exit.code()),
            (&b"one\ntwo"[..], Exit::Code(7), 7)
        );
        // It has ended: nobody else must get the signal.
        child.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn a_signal_reaches_the_child_and_is_its_exit_code() {
        let mut wake = Wake::new();
        let child = shell("echo $$; exec sleep 600", &wake.waker());
        let Woken::Data(pid) = wake.wait(PATIENCE) else {
            panic!("no output")
        };
        assert_eq!(pid, format!("{}\n", child.pid()).into_bytes());
        assert_eq!(child.exit(), None);
        child.signal(Signal::TERM).unwrap();
        let (_, exit) = run(&child, &mut wake);
        assert_eq!((exit, exit.code()), (Exit::Signal(15), 143));
    }

    #[test]
    fn the_exit_is_told_while_a_grandchild_holds_the_output() {
        let mut wake = Wake::new();
        let child = shell("sleep 600 & echo $!; exit 3", &wake.waker());
        let mut pid = Vec::new();
        while child.exit().is_none() || !pid.ends_with(b"\n") {
            match wake.wait(PATIENCE) {
                Woken::Data(chunk) => pid.extend(chunk),
                Woken::Changed => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(child.exit(), Some(Exit::Code(3)));
        let pid: i32 = String::from_utf8(pid).unwrap().trim().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        let over = std::iter::repeat_with(|| wake.wait(PATIENCE))
            .find(|woken| !matches!(woken, Woken::Changed));
        assert!(matches!(over, Some(Woken::End(Ok(())))), "{over:?}");
    }

    #[test]
    fn a_command_that_cannot_be_started_is_named() {
        let error = Child::spawn(OsStr::new("/no/such/server"), &[], &Wake::new().waker());
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("\"/no/such/server\"")
        );
    }
}
