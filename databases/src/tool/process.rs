//! Runs client tools: without a shell, in a minimal environment, in a process group of their own,
//! with bounded output, and without survivors.
//!
//! - **Environment**: a tool gets `PATH`, `HOME`, `LC_ALL=C.UTF-8` and what the caller gives, and
//!   inherits nothing else.
//! - **Descriptors**: beside the three usual ones, a tool gets at most one file of the caller's
//!   ([`INHERITED_FILE`]). No other tool that starts meanwhile gets that.
//! - **Bounds**: of stderr only the tail is kept. Of stdout there is at most about a megabyte in
//!   memory at a time.
//! - **Stall**: a tool that we wait for is killed if it gives no byte for longer than the limit.
//!   While the reader is slow, that time does not run.
//! - **Cancellation**: when a [`Tool`] is dropped, its whole process group is killed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use command_fds::{CommandFdExt, FdMapping};
use lifeboat_base::{Class, Context, Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::pipes::{Drain, Filler, PIPE_BYTES};
use super::said::Said;
use crate::database::WorkContext;
use crate::streams::{StreamReader, StreamWriter};

/// A read of stdout has room for at least this.
const MIN_ROOM_BYTES: usize = 256 << 10;
/// [`output`] collects no more.
const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// The descriptor of the caller's file in the tool, …
const INHERITED_DESCRIPTOR: i32 = 3;
/// … and the path by which the tool opens it, from its beginning.
pub(crate) const INHERITED_FILE: &str = "/proc/self/fd/3";

/// Sees a piece of what a tool says, and gives what of it is to be told in an error.
type Watch = Box<dyn FnMut(&[u8]) -> Vec<u8> + Send>;

/// A tool that is to be run.
pub(crate) struct Invocation {
    command: Command,
    name: String,
    stall: Duration,
    cancel: CancellationToken,
    watch: Option<Watch>,
    file: Option<Arc<File>>,
}

impl Invocation {
    /// `program` with `arguments`. It obeys `cx`.
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
        Self { command, name, stall: cx.stall, cancel: cx.cancel.clone(), watch: None, file: None }
    }

    /// Adds variables to its environment.
    pub(crate) fn envs<'a>(mut self, variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>) -> Self {
        self.command.envs(variables);
        self
    }

    /// Hands it this file, as [`INHERITED_FILE`].
    pub(crate) fn inherits(mut self, file: Arc<File>) -> Self {
        self.file = Some(file);
        self
    }

    /// Runs as this user and group.
    pub(crate) fn user(mut self, ids: Option<(u32, u32)>) -> Self {
        if let Some((user, group)) = ids {
            self.command.uid(user).gid(group);
        }
        self
    }

    /// Shows all of its standard error to `watch`, piece by piece. Only what `watch` gives back is
    /// kept of it.
    pub(crate) fn watched(mut self, watch: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// Runs in this directory.
    pub(crate) fn directory(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    /// Starts it. With `feed`, its standard input is a pipe.
    ///
    /// # Errors
    /// [`Class::Source`]: it is not installed or cannot be run.
    pub(crate) fn start(mut self, feed: bool) -> Result<Tool> {
        if feed {
            self.command.stdin(Stdio::piped());
        }
        let name = self.name;
        let spawn = || -> std::io::Result<Child> {
            if let Some(file) = &self.file {
                let parent_fd = file.as_fd().try_clone_to_owned()?;
                let mapping = FdMapping { parent_fd, child_fd: INHERITED_DESCRIPTOR };
                self.command.fd_mappings(vec![mapping]).map_err(std::io::Error::other)?;
            }
            self.command.spawn()
        };
        let mut child = { spawn }().map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let error = Error::source_failed(format!("cannot run {name}")).because(error);
            if missing { error.hint(format!("install {name}, or correct its path")) } else { error }
        })?;
        // The system's default pipe holds 64 KiB, so a page fault of ours would stop the tool.
        for pipe in child.stdout.as_ref().map(AsFd::as_fd).into_iter().chain(child.stdin.as_ref().map(AsFd::as_fd)) {
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
        }
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap_or(0)));
        let said = Said::default();
        let mut stderr = child.stderr.take();
        let (kept, mut watch) = (said.clone(), self.watch);
        let listener = tokio::spawn(async move {
            let mut piece = [0; 4096];
            while let Some(stderr) = &mut stderr {
                match stderr.read(&mut piece).await {
                    Ok(read @ 1..) => match &mut watch {
                        Some(watch) => kept.keep(&watch(&piece[..read])),
                        None => kept.keep(&piece[..read]),
                    },
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
            said,
            listener: AbortOnDropHandle::new(listener),
            stall: self.stall,
            cancel: self.cancel,
            buffer: BytesMut::new(),
        })
    }
}

/// A running tool.
pub(crate) struct Tool {
    child: Child,
    group: Option<Pid>,
    name: String,
    stdin: Option<Filler>,
    stdout: Option<Drain>,
    said: Said,
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
    /// Kills what is left of its group, once. That includes what a tool left behind when it ended.
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
    /// The tool stalls or cannot be read from, or the run is cancelled.
    pub(crate) async fn read(&mut self) -> Result<Option<Bytes>> {
        let Some(stdout) = &mut self.stdout else { return Ok(None) };
        if self.buffer.capacity() < MIN_ROOM_BYTES {
            self.buffer.reserve(4 * MIN_ROOM_BYTES);
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

    /// Streams its standard output, from here to its end, straight into `stream`. `look` sees each
    /// piece, in order, and may change bytes of it.
    ///
    /// # Errors
    /// As [`Self::read`], and those of `look` and `stream`.
    pub(crate) async fn pump(
        &mut self,
        stream: &mut dyn StreamWriter,
        mut look: impl FnMut(&mut [u8]) -> Result<()> + Send,
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
                    look(&mut space[..read])?;
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
        Error::source_failed(format!("{} gave no byte for {:?} and was stopped{}", self.name, self.stall, self.said()))
            .hint("look for locks in the database; if the tool is only slow, raise stall in [limits]")
    }

    /// Waits for its end and checks its exit status.
    ///
    /// # Errors
    /// It ends with another status or by a signal, stalls, or is cancelled. The error holds the
    /// tail of its stderr.
    pub(crate) async fn finish(&mut self, expected: i32) -> Result<i32> {
        self.finish_with(&[expected]).await
    }

    /// As [`Self::finish`], with any of these statuses.
    pub(crate) async fn finish_with(&mut self, expected: &[i32]) -> Result<i32> {
        self.stdin = None;
        let status = self.wait().await?;
        if let Some(code) = status.code().filter(|code| expected.contains(code)) {
            return Ok(code);
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
        // Its children may hold stderr open, but what it said itself is there by now.
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut self.listener).await;
        status.context(Class::Source, || format!("cannot wait for {}", self.name))
    }

    /// See [`Said::warnings`].
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.said.warnings(&self.name)
    }

    /// See [`Said::told`].
    pub(crate) fn said(&self) -> String {
        self.said.told()
    }
}

/// Runs a tool to its end and collects its standard output, at most 64 MiB.
///
/// # Errors
/// As [`Tool::read`] and [`Tool::finish`]; or the output is too long, or not UTF-8.
pub(crate) async fn output(invocation: Invocation) -> Result<String> {
    let name = invocation.name.clone();
    let collected = output_bytes(invocation).await?;
    String::from_utf8(collected).context(Class::Source, || format!("{name} does not answer in UTF-8"))
}

/// As [`output`], in any encoding.
///
/// # Errors
/// As [`Tool::read`] and [`Tool::finish`].
pub(crate) async fn output_bytes(invocation: Invocation) -> Result<Vec<u8>> {
    let mut tool = invocation.start(false)?;
    let mut collected = Vec::new();
    while let Some(piece) = tool.read().await? {
        collected.extend_from_slice(&piece);
        if collected.len() > MAX_OUTPUT_BYTES {
            return Err(Error::source_failed(format!(
                "{} gave more output than Lifeboat takes ({} MiB)",
                tool.name,
                MAX_OUTPUT_BYTES >> 20
            )));
        }
    }
    tool.finish(0).await?;
    Ok(collected)
}

/// Feeds a stream to a tool's standard input, up to the stream's checked end, then waits for the
/// tool's success. The tool's standard output goes to `out`, piece by piece.
///
/// # Errors
/// If the stream fails, its error; the tool is then killed before its input ends. Else the tool's
/// error.
pub(crate) async fn feed(
    invocation: Invocation,
    stream: &mut dyn StreamReader,
    out: impl FnMut(&[u8]) -> Result<()> + Send,
) -> Result<()> {
    feed_with(invocation, stream, out, &[0]).await.map(drop)
}

/// As [`feed`], with any of these statuses as success. Returns the one that it was.
pub(crate) async fn feed_with(
    invocation: Invocation,
    stream: &mut dyn StreamReader,
    out: impl FnMut(&[u8]) -> Result<()> + Send,
    expected: &[i32],
) -> Result<i32> {
    match feed_as_wanted(invocation, stream, out, expected).await? {
        (true, _, status) => Ok(status),
        (false, tool, _) => {
            Err(Error::source_failed(format!("{} ended before it had read the whole stream{}", tool.name, tool.said())))
        }
    }
}

/// As [`feed`], for a tool that may succeed before it has read everything. So the stream need not
/// be read to its checked end.
pub(crate) async fn feed_head(
    tool: Invocation,
    stream: &mut dyn StreamReader,
    out: impl FnMut(&[u8]) -> Result<()> + Send,
    expected: &[i32],
) -> Result<i32> {
    feed_as_wanted(tool, stream, out, expected).await.map(|(_, _, status)| status)
}

/// Returns whether the tool took the whole stream, and its status.
async fn feed_as_wanted(
    invocation: Invocation,
    stream: &mut dyn StreamReader,
    mut out: impl FnMut(&[u8]) -> Result<()> + Send,
    expected: &[i32],
) -> Result<(bool, Tool, i32)> {
    let cancel = invocation.cancel.clone();
    let mut tool = invocation.start(true)?;
    let mut stdin = tool.take_stdin();
    let is_fed = Notify::new();
    let (fed, read) = {
        let feeding = async {
            while let Some(piece) = stream.next().await? {
                let Some(pipe) = &mut stdin else { return Ok(false) };
                if pipe.write_all(&piece).await.is_err() {
                    // The tool ended early; its status says why.
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
            // Whoever has failed takes no more, however long the next piece is awaited.
            let failed = tokio::select! {
                () = is_fed.notified() => false,
                ended = tool.child.wait() => {
                    !ended.is_ok_and(|status| status.code().is_some_and(|code| expected.contains(&code)))
                }
            };
            Ok::<_, Error>(failed)
        };
        tokio::pin!(feeding, reading);
        let (mut fed, mut read): (Option<Result<bool>>, Option<Result<bool>>) = (None, None);
        while fed.is_none() || read.is_none() {
            if matches!(fed, Some(Err(_))) || matches!(read, Some(Err(_))) {
                break;
            }
            tokio::select! {
                result = &mut feeding, if fed.is_none() => {
                    fed = Some(result);
                    is_fed.notify_one();
                }
                result = &mut reading, if read.is_none() => {
                    if matches!(result, Ok(true)) {
                        fed.get_or_insert(Ok(false));
                    }
                    read = Some(result);
                }
                () = cancel.cancelled() => read = Some(Err(Error::failed("the work was cancelled").hint("run it again"))),
            }
        }
        (fed, read)
    };
    if !matches!((&fed, &read), (Some(Ok(_)), Some(Ok(_)))) {
        tool.kill();
    }
    let complete = fed.transpose()?;
    read.transpose()?;
    let status = tool.finish_with(expected).await?;
    Ok((complete == Some(true), tool, status))
}

impl Tool {
    /// As [`Self::read`], but without the stall limit: a tool that is fed, or builds an index, may
    /// be silent for as long as that takes.
    async fn read_unhurried(&mut self) -> Result<Option<Bytes>> {
        let limit = std::mem::replace(&mut self.stall, Duration::from_secs(7 * 86_400));
        let read = self.read().await;
        self.stall = limit;
        read
    }
}
