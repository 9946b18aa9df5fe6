//! Loads a dump into a server that runs, by its own commands: `RESTORE` for each key, then
//! `FUNCTION RESTORE` for each library, then `ACL SETUSER` for each user.
//!
//! One client passes all of them on, from its standard input: so no value and no hash of a password
//! is in a command line. The dump is read on a thread of its own; in memory are at most four values
//! at a time, and all libraries. Before the first key of a database is sent, the server is asked
//! what is in it (see `chosen.rs`). The first error of the server ends the load.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lifeboat_base::{Error, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::chosen::ChosenDatabase;
use super::clients::RedisVersion;
use super::connect::RedisConnection;
use super::failures::{explained, in_one_line};
use super::rdb::{FIRST_VALKEY_RDB_VERSION, RdbEntry, RdbPayload, entries};
use crate::blocking::{StreamBytes, read_apart};
use crate::database::WorkContext;
use crate::streams::StreamReader;
use crate::tool::process::feed;

/// Commands are passed on in pieces of about this size.
const COMMANDS_BYTES: usize = 256 << 10;
/// Libraries wait until all keys are there.
const MAX_FUNCTIONS_BYTES: usize = 64 << 20;
/// While keys are passed over, the server hears of us so often: else it, or the client, gives up.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// What the client says before the numbers of errors and of answers.
const ERRORS: &str = "errors: ";
/// The client says a few lines.
const MAX_CLIENT_OUTPUT_BYTES: usize = 64 << 10;
/// Behind this, a server repeats what it was sent.
const REPEATED: &str = ", with args beginning with:";
/// No more of an error is told.
const MAX_ERROR_CHARS: usize = 200;

/// The words of a command.
pub(super) type RedisCommand = Vec<Vec<u8>>;

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

impl WantedKeys {
    /// Whether keys of this database (`None`: functions) are wanted.
    fn wants(&self, database: Option<u64>) -> bool {
        self.databases.is_empty() || database.is_some_and(|database| self.databases.contains(&database))
    }
}

/// What was loaded.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct LoadedKeys {
    /// The databases of the dump whose keys were loaded, in its order.
    databases: Vec<u64>,
    /// How many keys were sent that had expired: the server drops them.
    pub(super) expired: u64,
    /// How many keys have no element. No server takes such.
    pub(super) empty: u64,
    /// Whether the dump holds functions that were left out, as only some databases are wanted.
    pub(super) functions_left_out: bool,
}

/// How far a load came.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct LoadProgress {
    /// The databases of the server that were begun.
    pub(super) begun: Vec<u64>,
    /// Those of them that held keys, which were removed.
    pub(super) emptied: Vec<u64>,
    /// Whether functions and users were begun.
    pub(super) beyond_keys: bool,
    /// Whether somebody else writes into a database that was begun.
    pub(super) others_write: bool,
}

/// A load that failed, and what it did before.
pub(super) struct LoadFailed {
    pub(super) error: Error,
    pub(super) progress: LoadProgress,
}

/// What the thread that reads the dump hands over.
enum Piece {
    /// The keys that follow are for this database of the server.
    Database(u64),
    Commands {
        bytes: Vec<u8>,
        count: u64,
    },
    /// The dump was read to its checked end. The libraries are commands, too.
    End {
        loaded: LoadedKeys,
        functions: Vec<u8>,
        count: u64,
    },
}

/// Puts a command into `out`, as servers read it.
fn write_command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        write_word(&[word], out);
    }
}

/// Puts a word, which may be in parts, into `out`.
fn write_word(parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(length + 32);
    out.extend_from_slice(format!("${length}\r\n").as_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
}

/// Puts a command with a payload between other words into `out`.
fn write_payload(before: &[&[u8]], payload: &RdbPayload<'_>, after: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", before.len() + 1 + after.len()).as_bytes());
    before.iter().for_each(|word| write_word(&[word], out));
    write_word(&[payload.raw, &payload.wrap], out);
    after.iter().for_each(|word| write_word(&[word], out));
}

/// Makes commands of what a dump holds.
struct Writer<'s> {
    wanted: WantedKeys,
    sender: &'s mpsc::Sender<Result<Piece>>,
    bytes: Vec<u8>,
    count: u64,
    functions: Vec<u8>,
    libraries: u64,
    database: Option<u64>,
    sent: Instant,
    loaded: LoadedKeys,
}

impl Writer<'_> {
    fn take(&mut self, entry: &RdbEntry<'_>) -> Result<()> {
        match entry {
            RdbEntry::Function { .. } if !self.wanted.wants(None) => self.loaded.functions_left_out = true,
            RdbEntry::Function { payload } => {
                let policy: &[u8] = if self.wanted.overwrite { b"REPLACE" } else { b"APPEND" };
                write_payload(&[b"FUNCTION", b"RESTORE"], payload, &[policy], &mut self.functions);
                self.libraries += 1;
                if self.functions.len() > MAX_FUNCTIONS_BYTES {
                    return Err(Error::source_failed("the functions of the Redis dump take more than 64 MiB")
                        .hint("restore the files with --to-directory, and start the server with them"));
                }
            }
            RdbEntry::Key { database, .. } if !self.wanted.wants(Some(*database)) => {
                if self.sent.elapsed() > PING_INTERVAL {
                    self.ping()?;
                }
            }
            RdbEntry::Key { database, name, payload, expires } => {
                self.enter(*database)?;
                self.loaded.expired += u64::from(expires.is_some_and(|expires| expires <= self.wanted.now));
                // 0 would mean that it never expires.
                let time = expires.map_or(0, |expires| expires.max(1)).to_string();
                let after: &[&[u8]] = if expires.is_some() { &[b"ABSTTL"] } else { &[] };
                write_payload(&[b"RESTORE", name, time.as_bytes()], payload, after, &mut self.bytes);
                self.count += 1;
            }
        }
        if self.bytes.len() >= COMMANDS_BYTES { self.flush() } else { Ok(()) }
    }

    /// What follows is for this database of the dump.
    fn enter(&mut self, database: u64) -> Result<()> {
        if self.database == Some(database) {
            return Ok(());
        }
        self.flush()?;
        // Entered twice, it would be emptied twice.
        if self.loaded.databases.contains(&database) {
            return Err(Error::integrity(format!("the Redis dump holds database {database} twice"))
                .hint("restore an older snapshot; run redis-check-rdb on a new dump of the server"));
        }
        self.database = Some(database);
        self.loaded.databases.push(database);
        self.send(Piece::Database(self.wanted.into.unwrap_or(database)))
    }

    fn ping(&mut self) -> Result<()> {
        write_command(&[b"PING"], &mut self.bytes);
        self.count += 1;
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let piece = Piece::Commands { bytes: std::mem::take(&mut self.bytes), count: std::mem::take(&mut self.count) };
        self.sent = Instant::now();
        self.send(piece)
    }

    fn send(&self, piece: Piece) -> Result<()> {
        let gone = || Error::failed("nobody takes what the dump holds any more");
        self.sender.blocking_send(Ok(piece)).map_err(|_| gone())
    }

    /// What is to be known once the dump was read to its end.
    fn end(&mut self, empty: u64) -> Result<Piece> {
        let lacks = |wanted: &&u64| !self.loaded.databases.contains(wanted);
        if let Some(missing) = self.wanted.databases.iter().find(lacks) {
            return Err(Error::usage(format!("the snapshot holds no key in database {missing}"))
                .hint("choose another one with --database"));
        }
        self.ping()?;
        self.loaded.empty = empty;
        let functions = std::mem::take(&mut self.functions);
        Ok(Piece::End { loaded: std::mem::take(&mut self.loaded), functions, count: self.libraries })
    }
}

/// What the client says about errors: the beginning of it.
#[derive(Debug, Clone, Default)]
struct ServerErrors(Arc<Mutex<Vec<u8>>>);

impl ServerErrors {
    fn hear(&self, piece: &[u8]) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = 4096_usize.saturating_sub(heard.len());
        heard.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    /// The first one, without what the server repeats of a command.
    fn first(&self) -> Option<Error> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&heard);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        let line = line.split_once(REPEATED).map_or(line, |(line, _)| line);
        let told: String = in_one_line(line).chars().take(MAX_ERROR_CHARS).collect();
        let error = Error::source_failed(format!("the Redis server did not take all of it: {told}"));
        Some(match CAUSES_OF_LOADS.iter().find(|(mark, _)| line.contains(mark)) {
            Some((_, hint)) => error.hint(*hint),
            None => explained(error),
        })
    }

    fn tells_of_others(&self) -> bool {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&heard).contains("BUSYKEY")
    }
}

const CAUSES_OF_LOADS: [(&str, &str); 4] = [
    ("OOM", "raise maxmemory of the server: what the snapshot holds needs more"),
    ("payload version or checksum", "restore into a server of the same series as the snapshot's, or a newer one"),
    ("BUSYKEY", "somebody else writes into the server: stop that until the restore has ended"),
    ("already exists", "the server has a library of functions of that name: pass --overwrite to replace it"),
];

/// All commands, as a stream for the client.
struct Commands<'a> {
    connection: &'a RedisConnection,
    cx: &'a WorkContext,
    overwrite: bool,
    pieces: mpsc::Receiver<Result<Piece>>,
    errors: ServerErrors,
    first: Option<Vec<u8>>,
    /// The users.
    last: Vec<u8>,
    /// How many commands were passed on.
    count: u64,
    progress: LoadProgress,
    loaded: Option<LoadedKeys>,
}

#[async_trait::async_trait]
impl StreamReader for Commands<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(Bytes::from(first)));
        }
        if self.loaded.is_some() {
            return Ok(None);
        }
        let piece = self.pieces.recv().await.unwrap_or_else(|| Err(Error::failed("a worker thread failed")));
        if let Some(error) = self.errors.first() {
            return Err(error);
        }
        match piece? {
            Piece::Commands { bytes, count } => {
                self.count += count;
                Ok(Some(Bytes::from(bytes)))
            }
            Piece::Database(number) => self.begin(number).await.map(Some),
            Piece::End { loaded, functions: mut bytes, count } => {
                self.loaded = Some(loaded);
                self.count += count;
                bytes.append(&mut self.last);
                self.progress.beyond_keys = !bytes.is_empty();
                Ok(Some(Bytes::from(bytes)).filter(|bytes| !bytes.is_empty()))
            }
        }
    }
}

impl Commands<'_> {
    /// The command that chooses a database, once it is known to be there and is empty.
    async fn begin(&mut self, number: u64) -> Result<Bytes> {
        let database = ChosenDatabase { connection: self.connection, number };
        let keys = database.keys(self.cx).await?;
        if keys > 0 && !self.overwrite {
            return Err(Error::usage(format!("database {number} of the server holds {keys} keys")).hint(
                "pass --overwrite to empty it first, or restore one database into another with --database and --rename",
            ));
        }
        if keys > 0 {
            database.empty(&self.cx.to_the_end()).await?;
            self.progress.emptied.push(number);
        }
        self.progress.begun.push(number);
        let mut bytes = Vec::new();
        write_command(&[b"SELECT", number.to_string().as_bytes()], &mut bytes);
        self.count += 1;
        Ok(Bytes::from(bytes))
    }
}

/// Refuses a dump of a version that the server does not take, before it is sent anything.
fn suits(server: &RedisVersion, dump: u32) -> Result<()> {
    if server.takes_dump(dump) {
        return Ok(());
    }
    let into = match dump {
        FIRST_VALKEY_RDB_VERSION.. => "Valkey 9.0 or newer: no Redis and no older Valkey knows this form",
        12.. => "Redis 7.4 or newer: Valkey does not know this form",
        _ => "Redis 7.2 or newer, or into Valkey",
    };
    let product = server.product.name();
    Err(Error::usage(format!(
        "the snapshot's dump has version {dump}, and {product} {} does not take it: nothing was changed",
        server.whole
    ))
    .hint(format!("restore it into {into}")))
}

/// Loads the dump into a server of this version, then runs the commands `after`.
///
/// # Errors
/// The dump cannot be read to its checked end or does not suit the server, a database is not empty,
/// or the server refuses a command.
pub(super) async fn load_keys(
    connection: &RedisConnection,
    dump: Box<dyn StreamReader>,
    server: &RedisVersion,
    wanted: WantedKeys,
    after: &[RedisCommand],
    cx: &WorkContext,
) -> Result<(LoadedKeys, LoadProgress), LoadFailed> {
    let (sender, pieces) = mpsc::channel(1);
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let sign_in = connection.sign_in();
    if let Some(words) = &sign_in {
        write_command(words, &mut first);
    }
    for words in after {
        write_command(&words.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut last);
    }
    let errors = ServerErrors::default();
    let server = server.clone();
    let mut commands = Commands {
        connection,
        cx,
        overwrite: wanted.overwrite,
        pieces,
        errors: errors.clone(),
        first: Some(first).filter(|first| !first.is_empty()),
        last,
        count: u64::from(sign_in.is_some()) + after.len() as u64,
        progress: LoadProgress::default(),
        loaded: None,
    };
    let reading = read_apart(StreamBytes::of(dump), "the restore", cx, move |from| {
        let mut writer = Writer {
            wanted: wanted.clone(),
            sender: &sender,
            bytes: Vec::new(),
            count: 0,
            functions: Vec::new(),
            libraries: 0,
            database: None,
            sent: Instant::now(),
            loaded: LoadedKeys::default(),
        };
        let takes = |dump| suits(&server, dump);
        let read = entries(from, &takes, &|database| wanted.wants(database), &mut |entry| writer.take(&entry));
        let end = read.and_then(|empty| writer.end(empty));
        // Who would take it may be gone.
        let _ = sender.blocking_send(end);
        Ok(())
    });
    let feeding = async {
        let mut said = Vec::new();
        let heard = errors.clone();
        let client = connection.passing_on(cx).watched(move |piece| {
            heard.hear(piece);
            Vec::new()
        });
        let fed = feed(client, &mut commands, |piece| {
            said.extend_from_slice(&piece[..piece.len().min(MAX_CLIENT_OUTPUT_BYTES - said.len())]);
            Ok(())
        });
        let fed = fed.await.map_err(|error| errors.first().unwrap_or(error));
        // The thread ends when nobody takes its pieces.
        commands.pieces.close();
        fed.and_then(|()| all_answered(&String::from_utf8_lossy(&said), commands.count))
    };
    let (fed, read) = tokio::join!(feeding, reading);
    commands.progress.others_write = errors.tells_of_others();
    let progress = commands.progress.clone();
    match (fed.and(read), commands.loaded.take()) {
        (Ok(()), Some(loaded)) => Ok((loaded, progress)),
        (Ok(()), None) => Err(LoadFailed { error: Error::failed("the dump was not read to its end"), progress }),
        (Err(error), _) => Err(LoadFailed { error, progress }),
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
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_as_servers_read_them() {
        let mut out = Vec::new();
        write_command(&[b"RESTORE", b"a\r\n", b""], &mut out);
        assert_eq!(out, b"*3\r\n$7\r\nRESTORE\r\n$3\r\na\r\n\r\n$0\r\n\r\n");
        out.clear();
        let payload = RdbPayload { raw: b"raw", wrap: *b"0123456789" };
        write_payload(&[b"A"], &payload, &[b"B"], &mut out);
        assert_eq!(out, b"*3\r\n$1\r\nA\r\n$13\r\nraw0123456789\r\n$1\r\nB\r\n");
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

    #[test]
    fn the_first_error_is_told_without_what_the_server_repeats() {
        let errors = ServerErrors::default();
        assert!(errors.first().is_none());
        errors.hear(b"ERR unknown command 'RESTORE', with args beginning with: 'customer' 'secret'\n");
        errors.hear(b"BUSYKEY Target key name already exists.\n");
        let told = errors.first().unwrap().chain_and_hint();
        assert!(told.contains("unknown command 'RESTORE'") && !told.contains("secret"), "{told}");
        assert!(errors.tells_of_others());
    }
}
