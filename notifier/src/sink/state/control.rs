//! How `kms-notifier dead-letters` talks to the sidecar that holds the state: a
//! Unix socket beside the database, one JSON line each way.
//!
//! Whoever may write the socket may have messages told again or dropped, so its
//! mode is 0600 from the first moment it can be found.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use crate::event::{Kind, Text};
use crate::policy::{DeadLetter, Policy, Selection};

/// Longest request in bytes: a thousand numbers of twenty digits.
const MAX_REQUEST: u64 = 32 * 1024;

/// Longest answer that is read, in bytes: a thousand letters.
const MAX_REPLY: u64 = 4 << 20;

/// How long one conversation may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Which dead letters there are.
    List,
    /// Tell these after all.
    Retry(Selection),
    /// Forget these.
    Drop(Selection),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Those there are, oldest first.
    Letters(Vec<Letter>),
    /// So many were retried or dropped.
    Done(usize),
    /// It cannot be done, and why.
    Error(String),
}

/// A dead letter as it is listed. Texts are cleaned of control characters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// Its number.
    pub id: u64,
    /// When it was refused.
    pub refused_at: Timestamp,
    /// The HTTP status that said so.
    pub status: u16,
    /// What it is about.
    pub kind: Kind,
    /// How many events it stands for.
    pub count: u64,
    /// Whose.
    pub ip: Option<IpAddr>,
    /// What the client calls itself.
    pub workstation: Option<Text>,
    /// What it asked for.
    pub product: Option<Text>,
}

impl From<&DeadLetter> for Letter {
    fn from(letter: &DeadLetter) -> Self {
        let notice = &letter.notice;
        Self {
            id: letter.id,
            refused_at: letter.refused_at,
            status: letter.status,
            kind: notice.kind,
            count: notice.count,
            ip: notice.ip,
            workstation: notice.workstation.clone(),
            product: notice.product.clone(),
        }
    }
}

/// One line for people.
impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            refused_at,
            status,
            ..
        } = self;
        write!(
            f,
            "{id}  {refused_at:.0}  HTTP {status}  {}",
            self.kind.as_str()
        )?;
        match self.ip {
            Some(ip) => write!(f, "  {ip}")?,
            None => f.write_str("  -")?,
        }
        let text = |text: &Option<Text>| text.clone().unwrap_or_else(|| "-".into());
        write!(f, "  {}  {}", text(&self.workstation), text(&self.product))?;
        if self.count > 1 {
            write!(f, "  ({} times)", self.count)?;
        }
        Ok(())
    }
}

/// Does what is asked; the state is to be saved before the reply is given.
pub fn answer(request: &Request, policy: &mut Policy, now: Timestamp) -> Reply {
    match request {
        Request::List => Reply::Letters(policy.dead_letters().map(Letter::from).collect()),
        Request::Retry(which) => Reply::Done(policy.retry_dead_letters(which, now)),
        Request::Drop(which) => Reply::Done(policy.drop_dead_letters(which)),
    }
}

fn socket(state: &Path) -> PathBuf {
    with(state, ".sock")
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The socket, bound. Removed when dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Binds the socket beside the state at `state`, in place of one that an
    /// earlier run left: only one process has the state open.
    ///
    /// # Errors
    /// Those of the file system, and a path of more than some 100 bytes.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(state: &Path) -> io::Result<Self> {
        let path = socket(state);
        // Its mode can be set only once it is there: until then nobody else can
        // come near it.
        let nursery = with(state, ".new");
        let _ = fs::remove_dir_all(&nursery);
        DirBuilder::new().mode(0o700).create(&nursery)?;
        let bound = Self::bind_in(&nursery, path);
        fs::remove_dir_all(&nursery)?;
        bound
    }

    fn bind_in(nursery: &Path, path: PathBuf) -> io::Result<Self> {
        let young = nursery.join("s");
        let listener = UnixListener::bind(&young)?;
        fs::set_permissions(&young, Permissions::from_mode(0o600))?;
        fs::rename(&young, &path)?;
        Ok(Self { listener, path })
    }

    /// Answers one conversation after the other; ends never. `ask` brings a
    /// request to whoever owns the state; none if that is gone.
    pub async fn serve<F>(&self, ask: impl Fn(Request) -> F)
    where
        F: Future<Output = Option<Reply>>,
    {
        loop {
            let talked = match self.listener.accept().await {
                Ok((stream, _)) => tokio::time::timeout(PATIENCE, talk(stream, &ask)).await,
                Err(error) => {
                    tracing::warn!("the control socket: {error}");
                    tokio::time::sleep(PATIENCE).await;
                    continue;
                }
            };
            let problem = match talked {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it took too long".to_owned(),
            };
            tracing::debug!("a conversation on the control socket ended: {problem}");
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("the control socket stays: {error}");
        }
    }
}

async fn talk<F>(mut stream: tokio::net::UnixStream, ask: impl Fn(Request) -> F) -> io::Result<()>
where
    F: Future<Output = Option<Reply>>,
{
    let (reading, mut writing) = stream.split();
    let mut line = Vec::new();
    tokio::io::BufReader::new(reading.take(MAX_REQUEST))
        .read_until(b'\n', &mut line)
        .await?;
    let reply = match serde_json::from_slice(&line) {
        Ok(request) => ask(request).await,
        Err(error) => Some(Reply::Error(format!("not a request: {error}"))),
    };
    let reply = reply.unwrap_or_else(|| Reply::Error("the notifier is stopping".into()));
    let mut answer = serde_json::to_vec(&reply)?;
    answer.push(b'\n');
    writing.write_all(&answer).await
}

/// Asks the sidecar that has the state at `state` open; none if there is none, or
/// one without a socket.
///
/// # Errors
/// It is there and does not answer, or the socket is not ours to write.
pub fn ask(state: &Path, request: &Request) -> io::Result<Option<Reply>> {
    use io::ErrorKind::{ConnectionRefused, InvalidInput, NotFound};
    let mut stream = match UnixStream::connect(socket(state)) {
        // The last one is a path that is too long for a socket, so nobody bound it.
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused | InvalidInput) => {
            return Ok(None);
        }
        stream => stream?,
    };
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reply = Vec::new();
    BufReader::new(stream.take(MAX_REPLY)).read_until(b'\n', &mut reply)?;
    Ok(Some(serde_json::from_slice(&reply)?))
}
