//! Runs client tools: no shell, a minimal environment, a process group of their own, bounded
//! output, no survivor.
//!
//! - **Environment**: `PATH`, `HOME`, `LC_ALL=C.UTF-8` and what the caller gives; nothing else is
//!   inherited.
//! - **Bounds**: of stderr only the tail is kept; stdout is streamed in pieces of at most 256 KiB.
//! - **Stall**: a tool that owes a byte for longer than the limit is killed; while the reader is
//!   slow, nothing is owed.
//! - **Cancellation**: when a [`Tool`] is dropped, its whole process group is killed.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lifeboat_base::{Class, Context, Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::pipes::{Drain, Filler, PIPE};
use crate::database::WorkContext;
use crate::streams::{StreamReader, StreamWriter};

const PIECE: usize = 256 << 10;
const TAIL: usize = 8 << 10;
/// After these PostgreSQL's tools repeat statements and rows.
const STATEMENTS: [&str; 2] = ["Command was:", "CONTEXT:"];
/// Most that [`output`] collects.
const COLLECTED: usize = 64 << 20;

/// A tool to be run.
pub(crate) struct Invocation {
    command: Command,
    name: String,
    stall: Duration,
    cancel: CancellationToken,
}

impl Invocation {
    /// `program` with `arguments`, obeying `cx`.
    pub(crate) fn new<A: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        cx: &WorkContext,
    ) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", cx.environment.path())
            .env("HOME", cx.environment.home())
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        Self { command, name, stall: cx.stall, cancel: cx.cancel.clone() }
    }

    /// Adds variables to its environment.
    pub(crate) fn envs<'a>(mut self, variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>) -> Self {
        self.command.envs(variables);
        self
    }

    /// Runs as this user and group.
    pub(crate) fn user(mut self, ids: Option<(u32, u32)>) -> Self {
        if let Some((user, group)) = ids {
            self.command.uid(user).gid(group);
        }
        self
    }

    /// Runs in this directory.
    pub(crate) fn directory(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    /// Starts it; with `feed`, its standard input is a pipe.
    ///
    /// # Errors
    /// [`Class::Source`]: it is not installed or cannot be run.
    pub(crate) fn start(mut self, feed: bool) -> Result<Tool> {
        if feed {
            self.command.stdin(Stdio::piped());
        }
        let name = self.name;
        let mut child = self.command.spawn().map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let error = Error::source_failed(format!("cannot run {name}")).because(error);
            if missing { error.hint(format!("install {name}, or correct its path")) } else { error }
        })?;
        // The system's default pipe is 64 KiB: a page fault of ours would stop the tool.
        for pipe in child.stdout.as_ref().map(AsFd::as_fd).into_iter().chain(child.stdin.as_ref().map(AsFd::as_fd)) {
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
        }
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap_or(0)));
        let tail = Arc::new(Mutex::new(Vec::new()));
        let mut stderr = child.stderr.take();
        let kept = tail.clone();
        let listener = tokio::spawn(async move {
            let mut piece = [0; 4096];
            while let Some(stderr) = &mut stderr {
                match stderr.read(&mut piece).await {
                    Ok(read @ 1..) => keep_tail(&kept, &piece[..read]),
                    _ => break,
                }
            }
        });
        Ok(Tool {
            stdin: child.stdin.take().map(Filler::new),
            stdout: child.stdout.take().map(Drain::new),
            child,
            group,
            name,
            tail,
            listener: AbortOnDropHandle::new(listener),
            stall: self.stall,
            cancel: self.cancel,
            buffer: BytesMut::new(),
        })
    }
}

fn keep_tail(tail: &Mutex<Vec<u8>>, piece: &[u8]) {
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    tail.extend_from_slice(piece);
    let excess = tail.len().saturating_sub(TAIL);
    tail.drain(..excess);
}

/// A running tool.
pub(crate) struct Tool {
    child: Child,
    group: Option<Pid>,
    name: String,
    stdin: Option<Filler>,
    stdout: Option<Drain>,
    tail: Arc<Mutex<Vec<u8>>>,
    listener: AbortOnDropHandle<()>,
    stall: Duration,
    cancel: CancellationToken,
    buffer: BytesMut,
}

impl Drop for Tool {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Tool {
    /// Kills what is left of its group, once: also what a tool that has ended itself left behind.
    fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Its standard input, once.
    pub(crate) fn take_stdin(&mut self) -> Option<Filler> {
        self.stdin.take()
    }

    /// The next piece of its standard output, `None` at the end.
    ///
    /// # Errors
    /// It stalls, or the run is cancelled: it is killed then.
    pub(crate) async fn read(&mut self) -> Result<Option<Bytes>> {
        let Some(stdout) = &mut self.stdout else { return Ok(None) };
        if self.buffer.capacity() < PIECE {
            self.buffer.reserve(4 * PIECE);
        }
        let read = tokio::select! {
            read = tokio::time::timeout(self.stall, stdout.read_buf(&mut self.buffer)) => read,
            () = self.cancel.cancelled() => return Err(Error::cancelled(&self.name)),
        };
        match read {
            Ok(Ok(0)) => {
                self.stdout = None;
                Ok(None)
            }
            Ok(Ok(_)) => Ok(Some(self.buffer.split().freeze())),
            Ok(Err(error)) => Err(Error::source_failed(format!("cannot read from {}", self.name)).because(error)),
            Err(_) => Err(self.stalled()),
        }
    }

    /// Streams its standard output, from here to its end, straight into `stream`; `look` sees each
    /// piece, in order.
    ///
    /// # Errors
    /// As [`Self::read`], and what `look` and `stream` object to.
    pub(crate) async fn pump(
        &mut self,
        stream: &mut dyn StreamWriter,
        mut look: impl FnMut(&[u8]) -> Result<()> + Send,
    ) -> Result<()> {
        while let Some(stdout) = &mut self.stdout {
            let space = stream.space().await?;
            let read = tokio::select! {
                read = tokio::time::timeout(self.stall, stdout.read(space)) => read,
                () = self.cancel.cancelled() => return Err(Error::cancelled(&self.name)),
            };
            match read {
                Ok(Ok(0)) => self.stdout = None,
                Ok(Ok(read)) => {
                    look(&space[..read])?;
                    stream.filled(read).await?;
                }
                Ok(Err(error)) => {
                    return Err(Error::source_failed(format!("cannot read from {}", self.name)).because(error));
                }
                Err(_) => return Err(self.stalled()),
            }
        }
        Ok(())
    }

    fn stalled(&self) -> Error {
        Error::source_failed(format!(
            "{} has delivered nothing for {:?} and was stopped{}",
            self.name,
            self.stall,
            self.said()
        ))
        .hint("look for locks in the database; a longer limit is [limits] stall")
    }

    /// Waits for its end and checks its exit status.
    ///
    /// # Errors
    /// Another status, a signal, a stall or a cancellation; with the tail of its stderr.
    pub(crate) async fn finish(&mut self, expected: i32) -> Result<i32> {
        self.stdin = None;
        let status = self.wait().await?;
        if status.code() == Some(expected) {
            return Ok(expected);
        }
        let how = match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        Err(Error::source_failed(format!("{} {how}{}", self.name, self.said())))
    }

    async fn wait(&mut self) -> Result<ExitStatus> {
        let status = tokio::select! {
            status = tokio::time::timeout(self.stall, self.child.wait()) => status,
            () = self.cancel.cancelled() => return Err(Error::cancelled(&self.name)),
        };
        let status = status.map_err(|_| self.stalled())?;
        self.kill();
        // Its grandchildren may hold stderr open; what it said itself is there by now.
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut self.listener).await;
        status.context(Class::Source, || format!("cannot wait for {}", self.name))
    }

    /// What it said last, for an error: without the statement that failed, which may hold a
    /// password, and without its row.
    pub(crate) fn said(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&tail);
        let end = STATEMENTS.iter().filter_map(|mark| text.find(mark)).min();
        let text = &text[..end.unwrap_or(text.len())];
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
        if clean.is_empty() { String::new() } else { format!(", saying: {clean}") }
    }
}

/// Runs a tool to its end and collects its standard output, at most 64 MiB.
///
/// # Errors
/// As [`Tool::read`] and [`Tool::finish`]; or it is not UTF-8.
pub(crate) async fn output(invocation: Invocation) -> Result<String> {
    let name = invocation.name.clone();
    let collected = output_bytes(invocation).await?;
    String::from_utf8(collected).context(Class::Source, || format!("{name} does not answer in UTF-8"))
}

/// As [`output`], in whatever encoding.
///
/// # Errors
/// As [`Tool::read`] and [`Tool::finish`].
pub(crate) async fn output_bytes(invocation: Invocation) -> Result<Vec<u8>> {
    let mut tool = invocation.start(false)?;
    let mut collected = Vec::new();
    while let Some(piece) = tool.read().await? {
        collected.extend_from_slice(&piece);
        if collected.len() > COLLECTED {
            return Err(Error::source_failed(format!("{} says more than can be", tool.name)));
        }
    }
    tool.finish(0).await?;
    Ok(collected)
}

/// Feeds a stream to a tool's standard input, to the stream's checked end, then waits for the
/// tool's success. Its standard output goes to `out`, piece by piece.
///
/// # Errors
/// The stream's error first: the tool is killed then, before its input ends. Else the tool's.
pub(crate) async fn feed(
    invocation: Invocation,
    stream: &mut dyn StreamReader,
    mut out: impl FnMut(&[u8]) -> Result<()> + Send,
) -> Result<()> {
    let cancel = invocation.cancel.clone();
    let mut tool = invocation.start(true)?;
    let mut stdin = tool.take_stdin();
    let (fed, read) = {
        let feeding = async {
            while let Some(piece) = stream.next().await? {
                let Some(pipe) = &mut stdin else { return Ok(false) };
                if pipe.write_all(&piece).await.is_err() {
                    // It ended early; its own status says why.
                    return Ok(false);
                }
            }
            // Only a stream that was read to its checked end gives the tool an end of input.
            stdin = None;
            Ok(true)
        };
        let reading = async {
            while let Some(piece) = tool.read_unhurried().await? {
                out(&piece)?;
            }
            Ok::<_, Error>(())
        };
        tokio::pin!(feeding, reading);
        let (mut fed, mut read): (Option<Result<bool>>, Option<Result<()>>) = (None, None);
        while fed.is_none() || read.is_none() {
            if matches!(fed, Some(Err(_))) || matches!(read, Some(Err(_))) {
                break;
            }
            tokio::select! {
                result = &mut feeding, if fed.is_none() => fed = Some(result),
                result = &mut reading, if read.is_none() => read = Some(result),
                () = cancel.cancelled() => read = Some(Err(Error::failed("the work was cancelled"))),
            }
        }
        (fed, read)
    };
    if !matches!((&fed, &read), (Some(Ok(_)), Some(Ok(())))) {
        tool.kill();
    }
    let complete = fed.transpose()?;
    read.transpose()?;
    tool.finish(0).await?;
    if complete == Some(true) {
        Ok(())
    } else {
        Err(Error::source_failed(format!("{} ended before it had read the whole stream{}", tool.name, tool.said())))
    }
}

impl Tool {
    /// As [`Self::read`] without the stall limit: a tool that is fed, or builds an index, may be
    /// silent for as long as that takes.
    async fn read_unhurried(&mut self) -> Result<Option<Bytes>> {
        let limit = std::mem::replace(&mut self.stall, Duration::from_secs(7 * 86_400));
        let read = self.read().await;
        self.stall = limit;
        read
    }
}
