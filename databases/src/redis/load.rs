//! Loads a dump into a server that runs, by its own commands: `RESTORE` for each key, `FUNCTION
//! RESTORE` for each library, `ACL SETUSER` for each user.
//!
//! One client passes all of them on, from its standard input: so no value and no hash of a password
//! is in a command line. The dump is read on a thread of its own, and only some pieces of it wait
//! in memory. Before the first command for a database, the server is asked what is in it: a command
//! that selects a database fails where there is none, and all that follow would go into another.

use bytes::Bytes;
use lifeboat_base::{Class, Error, Result};
use tokio::sync::mpsc;

use super::connect::RedisConnection;
use super::failures::explained;
use super::rdb::{RdbEntry, entries};
use super::replies::RedisReply;
use crate::blocking::{StreamBytes, read_apart};
use crate::database::WorkContext;
use crate::streams::StreamReader;
use crate::tool::process::feed;

/// Commands are passed on in pieces of about this size, …
const COMMANDS_BYTES: usize = 256 << 10;
/// … of which so many wait.
const WAITING_PIECES: usize = 4;
/// What the client says before the numbers of errors and of answers.
const ERRORS: &str = "errors: ";
/// The client says a few lines.
const MAX_CLIENT_OUTPUT_BYTES: usize = 64 << 10;

/// What of a dump is wanted.
#[derive(Debug, Clone)]
pub(super) struct WantedKeys {
    /// Only keys of these databases. If there are none, those of all, and the functions.
    pub(super) databases: Vec<u64>,
    /// The only database goes into the one with this number.
    pub(super) into: Option<u64>,
    /// A database that is not empty is emptied first, and a library replaced.
    pub(super) overwrite: bool,
    /// The server's clock, in milliseconds since 1970.
    pub(super) now: i64,
}

/// What was loaded.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct LoadedKeys {
    /// The databases of the server, in the order of the dump.
    pub(super) databases: Vec<u64>,
    /// How many keys were sent that had expired: the server drops them.
    pub(super) expired: u64,
    /// How many keys have no element. No server takes such.
    pub(super) empty: u64,
    /// Whether the dump holds functions that were left out, as only some databases are wanted.
    pub(super) functions_left_out: bool,
}

/// A load that failed, and the databases that hold a part of the dump now.
pub(super) struct LoadFailed {
    pub(super) error: Error,
    pub(super) begun: Vec<u64>,
}

/// What the thread that reads the dump hands over.
enum Piece {
    /// The keys that follow are for this database of the server.
    Database(u64),
    Commands {
        bytes: Vec<u8>,
        count: u64,
    },
    End(LoadedKeys),
}

/// Puts a command into `out`, as servers read it.
fn write_command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Makes commands of what a dump holds.
struct Writer<'s> {
    wanted: WantedKeys,
    sender: &'s mpsc::Sender<Result<Piece>>,
    bytes: Vec<u8>,
    count: u64,
    database: Option<u64>,
    loaded: LoadedKeys,
}

impl Writer<'_> {
    fn take(&mut self, entry: &RdbEntry<'_>) -> Result<()> {
        match *entry {
            RdbEntry::Function { .. } if !self.wanted.databases.is_empty() => self.loaded.functions_left_out = true,
            RdbEntry::Function { payload } => {
                let policy: &[u8] = if self.wanted.overwrite { b"REPLACE" } else { b"APPEND" };
                self.command(&[b"FUNCTION", b"RESTORE", payload, policy]);
            }
            RdbEntry::Key { database, .. }
                if !self.wanted.databases.is_empty() && !self.wanted.databases.contains(&database) => {}
            RdbEntry::Key { database, name, payload, expires } => {
                if self.database != Some(database) {
                    self.flush()?;
                    self.database = Some(database);
                    let into = self.wanted.into.unwrap_or(database);
                    self.loaded.databases.push(into);
                    self.send(Piece::Database(into))?;
                }
                self.loaded.expired += u64::from(expires.is_some_and(|expires| expires <= self.wanted.now));
                match expires {
                    // 0 would mean that it never expires.
                    Some(expires) => {
                        let time = expires.max(1).to_string();
                        self.command(&[b"RESTORE", name, time.as_bytes(), payload, b"ABSTTL"]);
                    }
                    None => self.command(&[b"RESTORE", name, b"0", payload]),
                }
            }
        }
        if self.bytes.len() >= COMMANDS_BYTES { self.flush() } else { Ok(()) }
    }

    fn command(&mut self, words: &[&[u8]]) {
        write_command(words, &mut self.bytes);
        self.count += 1;
    }

    fn flush(&mut self) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let piece = Piece::Commands { bytes: std::mem::take(&mut self.bytes), count: std::mem::take(&mut self.count) };
        self.send(piece)
    }

    fn send(&self, piece: Piece) -> Result<()> {
        let gone = || Error::failed("nobody takes what the dump holds any more");
        self.sender.blocking_send(Ok(piece)).map_err(|_| gone())
    }
}

/// All commands, as a stream for the client.
struct Commands<'a> {
    connection: &'a RedisConnection,
    cx: &'a WorkContext,
    overwrite: bool,
    pieces: mpsc::Receiver<Result<Piece>>,
    first: Option<Vec<u8>>,
    last: Option<Vec<u8>>,
    /// How many commands were passed on.
    count: u64,
    begun: Vec<u64>,
    loaded: Option<LoadedKeys>,
}

#[async_trait::async_trait]
impl StreamReader for Commands<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(Bytes::from(first)));
        }
        if self.loaded.is_some() {
            return Ok(self.last.take().map(Bytes::from));
        }
        match self.pieces.recv().await.transpose()? {
            Some(Piece::Commands { bytes, count }) => {
                self.count += count;
                Ok(Some(Bytes::from(bytes)))
            }
            Some(Piece::Database(number)) => self.begin(number).await.map(Some),
            Some(Piece::End(loaded)) => {
                self.loaded = Some(loaded);
                Ok(self.last.take().map(Bytes::from))
            }
            None => Err(Error::failed("a worker thread failed")),
        }
    }
}

impl Commands<'_> {
    /// The commands that choose a database, once it is known to be there and what is in it.
    async fn begin(&mut self, number: u64) -> Result<Bytes> {
        let keys = match self.connection.ask_in(number, &["DBSIZE"], self.cx).await? {
            RedisReply::Refused(why) => {
                return Err(explained(
                    Error::usage(format!("cannot restore into database {number}: {}", why.escape_debug()))
                        .hint("raise `databases` in the server's configuration, or choose with --database"),
                ));
            }
            RedisReply::Values(values) => String::from_utf8_lossy(&values.concat()).into_owned(),
        };
        if keys != "0" && !self.overwrite {
            return Err(Error::usage(format!("database {number} of the server holds {keys} keys")).hint(
                "pass --overwrite to empty it first, or restore one database into another with --database and --rename",
            ));
        }
        self.begun.push(number);
        let mut bytes = Vec::new();
        write_command(&[b"SELECT", number.to_string().as_bytes()], &mut bytes);
        self.count += 1;
        if keys != "0" {
            write_command(&[b"FLUSHDB"], &mut bytes);
            self.count += 1;
        }
        Ok(Bytes::from(bytes))
    }
}

/// Loads the dump, then runs the commands `after`.
///
/// # Errors
/// The dump cannot be read to its checked end, a database is not empty, or the server refuses a
/// command.
pub(super) async fn load_keys(
    connection: &RedisConnection,
    dump: Box<dyn StreamReader>,
    wanted: WantedKeys,
    after: &[Vec<Vec<u8>>],
    cx: &WorkContext,
) -> Result<LoadedKeys, LoadFailed> {
    let (sender, pieces) = mpsc::channel(WAITING_PIECES);
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let sign_in = connection.sign_in();
    if let Some(words) = &sign_in {
        write_command(words, &mut first);
    }
    for words in after {
        write_command(&words.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut last);
    }
    let known = u64::from(sign_in.is_some()) + after.len() as u64;
    let some = |bytes: Vec<u8>| Some(bytes).filter(|bytes| !bytes.is_empty());
    let mut commands = Commands {
        connection,
        cx,
        overwrite: wanted.overwrite,
        pieces,
        first: some(first),
        last: some(last),
        count: known,
        begun: Vec::new(),
        loaded: None,
    };
    let reading = read_apart(StreamBytes::of(dump), "the restore", cx, move |from| {
        let (bytes, loaded) = (Vec::new(), LoadedKeys::default());
        let mut writer = Writer { wanted, sender: &sender, bytes, count: 0, database: None, loaded };
        let read = entries(from, &mut |entry| writer.take(&entry)).and_then(|empty| {
            writer.flush()?;
            writer.loaded.empty = empty;
            Ok(Piece::End(writer.loaded.clone()))
        });
        // Who would take it may be gone.
        let _ = sender.blocking_send(read);
        Ok(())
    });
    let feeding = async {
        let mut said = Vec::new();
        let fed = feed(connection.passing_on(cx), &mut commands, |piece| {
            said.extend_from_slice(&piece[..piece.len().min(MAX_CLIENT_OUTPUT_BYTES - said.len())]);
            Ok(())
        });
        let fed = fed.await.map_err(refused_by_server);
        // The thread ends when nobody takes its pieces.
        commands.pieces.close();
        fed.and_then(|()| all_answered(&String::from_utf8_lossy(&said), commands.count))
    };
    let (fed, read) = tokio::join!(feeding, reading);
    let failed = |error| LoadFailed { error, begun: commands.begun.clone() };
    fed.and(read).map_err(failed)?;
    commands.loaded.take().ok_or_else(|| failed(Error::failed("the dump was not read to its end")))
}

/// The client counts errors, and repeats each.
fn refused_by_server(error: Error) -> Error {
    if error.class() != Class::Source {
        return error;
    }
    let chain = error.chain();
    let hint = if chain.contains("OOM") {
        Some("raise maxmemory of the server: what the snapshot holds needs more")
    } else if chain.contains("payload version or checksum") {
        Some("restore into a server of the same series as the snapshot's, or a newer one")
    } else if chain.contains("BUSYKEY") {
        Some("keep applications from the server until the restore has ended, then run it again with --overwrite")
    } else if chain.contains("already exists") {
        Some("the server has a library of functions of that name: pass --overwrite to replace it")
    } else {
        None
    };
    match hint {
        Some(hint) => error.hint(hint),
        None => explained(error),
    }
}

/// The client tells how many commands were answered.
fn all_answered(said: &str, sent: u64) -> Result<()> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix(ERRORS)?.split_once(", replies: "));
    match line.map(|(errors, replies)| (errors.trim().parse::<u64>(), replies.trim().parse::<u64>())) {
        Some((Ok(0), Ok(replies))) if replies == sent => Ok(()),
        Some((Ok(errors), Ok(replies))) => Err(Error::source_failed(format!(
            "the Redis server answered {replies} of {sent} commands, {errors} with an error"
        ))),
        _ => Err(Error::source_failed("redis-cli does not tell how many commands were answered")
            .hint("use redis-cli of Redis 6.2 or newer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_as_servers_read_them() {
        let mut out = Vec::new();
        write_command(&[b"RESTORE", b"a\r\n", b""], &mut out);
        assert_eq!(out, b"*3\r\n$7\r\nRESTORE\r\n$3\r\na\r\n\r\n$0\r\n\r\n");
    }

    #[test]
    fn only_a_client_that_counts_as_we_do_is_believed() {
        assert!(
            all_answered("All data transferred. Waiting for the last reply...\nerrors: 0, replies: 7\n", 7).is_ok()
        );
        for said in ["errors: 0, replies: 6\n", "errors: 1, replies: 7\n", "", "errors: none, replies: 7"] {
            assert!(all_answered(said, 7).is_err(), "{said}");
        }
    }
}
