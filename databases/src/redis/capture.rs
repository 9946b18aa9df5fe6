//! Captures a server: its users, its settings as text to read, and its dump.
//!
//! The dump comes by the replication protocol, with `redis-cli --rdb -`: one state of all
//! databases, and no file on the server's disk where it has `repl-diskless-sync yes`. The client
//! speaks TLS and knows every way to sign in, so that Lifeboat need not. What it passes on is
//! checked on its way (`tail.rs`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::secret::{Secret, SecretRef};
use lifeboat_base::{Error, Result};

use super::clients::RedisVersion;
use super::connect::RedisConnection;
use super::failures::explained;
use super::replies::RedisReply;
use super::server::RedisInfo;
use super::settings::RedisConfig;
use super::tail::DumpTail;
use super::users::{MAX_REDIS_USERS_BYTES, RedisUsers};
use super::{DUMP_STREAM, REDIS_KIND, RedisDb, SETTINGS_STREAM, USERS_STREAM, clients};
use crate::database::{Database, Source, SourceCheck, WorkContext};
use crate::streams::StreamSink;

/// Settings whose names hold one of these are secret, …
const SECRET_WORDS: [&str; 2] = ["pass", "secret"];
/// … and those whose names end so: `masterauth`, and `primaryauth` of Valkey.
const SECRET_ENDING: &str = "auth";
/// The part of `+replconf` with which Valkey 9 sends its own form of a dump.
const OWN_FORM_RIGHT: &str = "+replconf|rdb-only";
/// So much is read of what is no dump, until whoever sends it ends.
const MAX_ODD_BYTES: usize = 1 << 20;
/// What stands in the place of a secret that is set.
const SECRET_LEFT_OUT: &str = "(left out)";

/// Captures the configured server.
#[derive(Debug, Clone)]
pub struct RedisSource(pub RedisConfig);

#[async_trait]
impl Source for RedisSource {
    fn database(&self) -> &'static dyn Database {
        &RedisDb
    }

    fn client_directories(&self) -> &[PathBuf] {
        &self.0.client_directories
    }

    async fn check(&self, cx: &WorkContext) -> SourceCheck {
        let looked = async {
            let (connection, info) = self.reach(cx).await?;
            let lacks = lacks_rights(&connection, &info, cx).await?;
            let broken = unusable(&info).into_iter().chain(lacks).collect();
            let mut weak = weaknesses(&info);
            let (_, settings_warnings) = settings(&connection, cx).await?;
            let (_, users_warnings) = users(&connection, cx).await?;
            weak.extend(settings_warnings.into_iter().chain(users_warnings));
            Ok(SourceCheck { broken, weak, scratch_bytes: 0 })
        };
        looked.await.unwrap_or_else(SourceCheck::of)
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        let (connection, info) = self.reach(cx).await?;
        if let Some(error) = unusable(&info) {
            return Err(error);
        }
        if let Some(error) = lacks_own_form(&connection, &info, cx).await? {
            return Err(error);
        }
        let mut warnings = weaknesses(&info);
        let (users, left_out) = users(&connection, cx).await?;
        warnings.extend(left_out);
        let (settings, left_out) = settings(&connection, cx).await?;
        warnings.extend(left_out);
        for (name, text) in [(USERS_STREAM, users), (SETTINGS_STREAM, settings)] {
            let Some(text) = text else { continue };
            let mut stream = sink.open(name)?;
            stream.write(Bytes::from(text)).await?;
            stream.finish(0).await?;
        }
        warnings.extend(dump(&connection, sink, cx).await?);
        let client = connection.client().version.clone();
        Ok(SourceFacts {
            engine: REDIS_KIND.to_owned(),
            server_version: Some(info.version.told()),
            tools: BTreeMap::from([("redis-cli".to_owned(), client.whole)]),
            details: BTreeMap::new(),
            warnings,
            skipped: Vec::new(),
        })
    }
}

impl RedisSource {
    async fn reach(&self, cx: &WorkContext) -> Result<(RedisConnection, RedisInfo)> {
        let password: Option<Secret> = self.0.password.as_ref().map(SecretRef::read).transpose()?;
        let client = clients::client(&self.0.client_directories, cx).await?;
        let connection = RedisConnection::new(client, &self.0.address, password.as_ref())?;
        let info = RedisInfo::ask(&connection, cx).await?;
        Ok((connection, info))
    }
}

/// Why a server that answers sends no dump.
fn unusable(info: &RedisInfo) -> Option<Error> {
    if info.value("loading") == "1" {
        return Some(explained(Error::source_failed("the Redis server is LOADING its data")));
    }
    if info.mode() == "sentinel" {
        return Some(
            Error::source_failed("this is a Sentinel, which holds no data")
                .hint("name the address of a Redis server that it watches"),
        );
    }
    let is_replica = info.value("role") == "slave";
    (is_replica && info.value("master_link_status") != "up").then(|| {
        explained(Error::source_failed(
            "the Redis server is a replica without a master (NOMASTERLINK), and sends no dump",
        ))
    })
}

/// The rights that a capture needs.
fn capture_rights(version: &RedisVersion) -> String {
    let replconf = if version.has_own_dumps() { OWN_FORM_RIGHT } else { "+replconf" };
    format!("+ping +info +time +sync {replconf} +config|get +acl|list +acl|whoami +acl|dryrun")
}

/// Who we are to the server, if we may ask.
async fn our_name(connection: &RedisConnection, cx: &WorkContext) -> Result<Option<String>> {
    Ok(match connection.ask(&["ACL", "WHOAMI"], cx).await? {
        RedisReply::Values(me) => Some(String::from_utf8_lossy(&me.concat()).into_owned()),
        RedisReply::Refused(_) => None,
    })
}

/// Why the server would refuse to send a dump, if it says so. Older ones do not say it.
async fn lacks_rights(connection: &RedisConnection, info: &RedisInfo, cx: &WorkContext) -> Result<Option<Error>> {
    let Some(me) = our_name(connection, cx).await? else { return Ok(None) };
    for command in [&["SYNC"][..], &["REPLCONF", "rdb-only", "1"]] {
        let named = command[0];
        let said = match connection.ask(&[&["ACL", "DRYRUN", &me], command].concat(), cx).await? {
            RedisReply::Refused(why) if why.contains(&format!("Command '{named}' not found")) => {
                return Ok(Some(explained(Error::source_failed(format!(
                    "the Redis server says: unknown command '{named}'"
                )))));
            }
            said => said,
        };
        if let RedisReply::Values(said) = said {
            let said = String::from_utf8_lossy(&said.concat()).into_owned();
            if said.contains("no permissions") {
                return Ok(Some(
                    Error::source_failed(format!("the user {} may not run {named}", me.escape_debug())).hint(format!(
                        "ACL SETUSER {} {}",
                        me.escape_debug(),
                        capture_rights(&info.version)
                    )),
                ));
            }
        }
    }
    lacks_own_form(connection, info, cx).await
}

/// Why Valkey would send no dump of hashes with fields that expire.
///
/// A client that says that it needs no length (`REPLCONF capa eof`), but not which version it is,
/// is sent the form of Redis, which cannot hold such fields. That is how `redis-cli` 7.0 and
/// `valkey-cli` 8.1 ask. One that may not say so is sent Valkey's own form, through a file of the
/// server.
async fn lacks_own_form(connection: &RedisConnection, info: &RedisInfo, cx: &WorkContext) -> Result<Option<Error>> {
    let hashes = info.expiring_hashes();
    if hashes == 0 || !info.version.has_own_dumps() {
        return Ok(None);
    }
    let Some(me) = our_name(connection, cx).await? else { return Ok(None) };
    match connection.ask(&["ACL", "DRYRUN", &me, "REPLCONF", "capa", "eof"], cx).await? {
        RedisReply::Values(said) if said.concat() == b"OK" => {}
        _ => return Ok(None),
    }
    let error = Error::source_failed(format!(
        "{hashes} hashes of the Valkey server have fields that expire, and it sends no dump of them to a user with all \
        of +replconf"
    ));
    // Replicas may sign in as the default user.
    Ok(Some(match me.as_str() {
        "default" => error.hint(format!(
            "back up as a user of its own, with {OWN_FORM_RIGHT} in place of +replconf: see Redis in OPERATIONS.md"
        )),
        _ => error.hint(format!("ACL SETUSER {} -replconf {OWN_FORM_RIGHT}", me.escape_debug())),
    }))
}

/// What a capture lives with.
fn weaknesses(info: &RedisInfo) -> Vec<String> {
    let mut weak = Vec::new();
    if info.value("cluster_enabled") == "1" {
        weak.push(
            "is one node of a cluster: a snapshot holds its slots alone, so back up a node of each shard".to_owned(),
        );
    }
    if !info.modules.is_empty() {
        weak.push(format!(
            "has modules ({}): no drill loads them, so a snapshot with their data reaches level `fetched` only",
            info.modules.join(", ").escape_debug()
        ));
    }
    weak
}

/// Whether a setting of this name is secret.
fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(SECRET_ENDING) || SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// The settings as text, without secrets; and what is told about them.
async fn settings(connection: &RedisConnection, cx: &WorkContext) -> Result<(Option<String>, Vec<String>)> {
    let pairs = match connection.ask(&["CONFIG", "GET", "*"], cx).await? {
        RedisReply::Values(pairs) => pairs,
        RedisReply::Refused(why) => {
            let why = why.escape_debug();
            let warning =
                format!("is captured without its settings, which it does not show ({why}): allow +config|get");
            return Ok((None, vec![warning]));
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
    let mut written: Vec<String> = Vec::new();
    let mut warnings = Vec::new();
    for pair in pairs.chunks(2) {
        let [name, value] = pair else { continue };
        let (name, value) = (text(name), text(value));
        let is_secret = names_secret(&name) && !value.is_empty();
        if name == "repl-diskless-sync" && value == "no" {
            warnings.push(
                "writes each dump to its own disk before it sends it: CONFIG SET repl-diskless-sync yes (its fork \
                then lives as long as the upload takes)"
                    .to_owned(),
            );
        }
        written.push(format!("{name} {}\n", if is_secret { SECRET_LEFT_OUT } else { &value }));
    }
    written.sort_unstable();
    Ok((Some(written.concat()), warnings))
}

/// The users as lines of an ACL file; and what is told about them.
async fn users(connection: &RedisConnection, cx: &WorkContext) -> Result<(Option<String>, Vec<String>)> {
    match connection.ask(&["ACL", "LIST"], cx).await? {
        RedisReply::Values(lines) => {
            let text = match users_text(&lines) {
                Ok(text) => text,
                Err(warning) => return Ok((None, vec![warning])),
            };
            match text.len() > MAX_REDIS_USERS_BYTES {
                true => Ok((
                    None,
                    vec![format!(
                        "is captured without its users: they take {} bytes, and no more than {MAX_REDIS_USERS_BYTES} can be \
                    restored",
                        text.len()
                    )],
                )),
                false => Ok((Some(text), Vec::new())),
            }
        }
        RedisReply::Refused(why) => {
            let why = why.escape_debug();
            Ok((None, vec![format!("is captured without its users, which it does not show ({why}): allow +acl|list")]))
        }
    }
}

/// The users as they are written; or a warning that nothing can write them. A line that is changed
/// on its way would give other rights, so one such line leaves all of them out.
fn users_text(lines: &[Vec<u8>]) -> std::result::Result<String, String> {
    let written = |line: &Vec<u8>| String::from_utf8(line.clone()).ok().filter(|line| !line.contains(char::is_control));
    let texts: Vec<Option<String>> = lines.iter().map(written).collect();
    if let Some((line, _)) = lines.iter().zip(&texts).find(|(_, text)| text.is_none()) {
        let name = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        return Err(format!(
            "is captured without its users: a rule of user {} has bytes that no ACL file holds; change it by ACL SETUSER",
            name.escape_ascii()
        ));
    }
    let texts: Vec<String> = texts.into_iter().flatten().collect();
    RedisUsers::of_lines(&texts)
        .map(|users| users.written())
        .map_err(|_| "is captured without its users: its ACL LIST is not understood".to_owned())
}

/// Captures the dump. Returns what is told about it.
async fn dump(connection: &RedisConnection, sink: &dyn StreamSink, cx: &WorkContext) -> Result<Vec<String>> {
    let failed = |error: Error| explained(error).within("cannot dump the Redis server");
    let mut tool = connection.start(&["--rdb", "-"], cx).await?;
    let (mut stream, mut tail) = (sink.open(DUMP_STREAM)?, DumpTail::default());
    let mut pumped = Ok(());
    while let Some(piece) = tool.read().await.map_err(failed)? {
        match tail.see(&piece) {
            Ok(passed) => stream.write(passed).await?,
            Err(error) => {
                pumped = Err(error);
                break;
            }
        }
    }
    // A client that fails may write anything before it ends: what it says then tells more.
    let mut odd_bytes = 0;
    while pumped.is_err() && odd_bytes < MAX_ODD_BYTES {
        match tool.read().await.map_err(failed)? {
            Some(piece) => odd_bytes += piece.len(),
            None => break,
        }
    }
    if odd_bytes < MAX_ODD_BYTES {
        connection.finish(&mut tool).await.map_err(failed)?;
    }
    pumped?;
    let end = tail.end()?;
    stream.write(end.rest).await?;
    stream.finish(0).await?;
    let mut warnings = Vec::new();
    if !end.is_checked {
        warnings.push(
            "sends its dump without a checksum: set rdbchecksum yes there, so that what is damaged on its way is found"
                .to_owned(),
        );
    }
    if let Some(why) = end.unread {
        warnings.push(format!("sends a dump that is stored, but that no drill can read: {}", why.chain_and_hint()));
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_that_no_file_holds_are_left_out_with_a_warning() {
        let line = |rules: &[u8]| [b"user app on ", rules].concat();
        assert_eq!(users_text(&[line(b"~a:*")]), Ok("user app on ~a:*\n".to_owned()));
        for rules in [&b"~\x01"[..], b"~\xff", b"~\xc2\x85", b"~a\nsave 1 1"] {
            let left_out = users_text(&[b"user b on".to_vec(), line(rules)]);
            assert!(left_out.is_err_and(|warning| warning.contains("user app has bytes")), "{}", rules.escape_ascii());
        }
        assert!(users_text(&[b"nonsense".to_vec()]).is_err_and(|warning| warning.contains("not understood")));
    }

    #[test]
    fn secrets_are_known_by_the_names_of_their_settings() {
        for name in ["requirepass", "masterauth", "primaryauth", "tls-key-file-pass", "X.Secret", "x-auth"] {
            assert!(names_secret(name), "{name}");
        }
        for name in ["tls-auth-clients", "masteruser", "primaryuser", "dir"] {
            assert!(!names_secret(name), "{name}");
        }
    }
}
