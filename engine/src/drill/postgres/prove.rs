//! Proves that a restored server equals a snapshot: globals as statements, each database as its [digest](super::digest).
//!
//! Both sides go through the same `pg_restore`: the stored archive as it is, the restored database through a fresh dump.

use async_trait::async_trait;
use bytes::Bytes;

use super::super::ProofResult;
use super::super::multiset::{Multiset, ProofKey, Titled, shorten, tell};
use super::digest::{DatabaseDigest, Reader};
use super::server::ThrowAwayServer;
use super::shown;
use crate::error::Result;
use crate::source::postgres::capture::{DATABASES, conninfo, rows};
use crate::source::postgres::connect::Connection;
use crate::source::postgres::globals::{is_of_tablespace, statements};
use crate::source::postgres::load::read_globals;
use crate::source::postgres::{DATABASE, GLOBALS};
use crate::source::process::{Invocation, Tool, feed, output};
use crate::source::{CaptureContext, StoredStreams, StreamReader};

/// Compares everything.
pub(super) async fn prove(
    server: &ThrowAwayServer,
    loaded: &[String],
    streams: &dyn StoredStreams,
    cx: &CaptureContext,
) -> Result<ProofResult> {
    let key: ProofKey = rand::random();
    let mut proof = ProofResult::default();
    let there = rows(&server.server(cx)?.query_in("template1", DATABASES).await?);
    let names = streams.names();
    let stored: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(DATABASE)).collect();
    for database in there.iter().filter(|name| !stored.contains(&name.as_str()) && *name != "postgres") {
        proof.differences.push(format!("database {} is only in the restored server", shown(database)));
    }
    if names.iter().any(|name| name == GLOBALS) {
        compare_globals(server, streams, key, &mut proof, cx).await?;
    }
    for database in stored {
        if !there.iter().any(|name| name == database) || !loaded.iter().any(|name| name == database) {
            proof.differences.push(format!("database {} is missing in the restored server", shown(database)));
            continue;
        }
        let mut archive = streams.open(&format!("{DATABASE}{database}")).await?;
        let stored = digest(server, archive.as_mut(), key, cx).await?;
        let connection = Connection::new(&server.connection(), None, cx)?;
        let name = conninfo(database);
        let arguments = ["--format=custom", "--compress=0", "-w", "-d", &name];
        let dump = Invocation::new(&server.clients.tool("pg_dump"), arguments, cx).envs(connection.variables());
        let restored = digest(server, &mut Dump(Some(dump.start(false)?)), key, cx).await?;
        count(&stored, &mut proof);
        compare(database, &stored, &restored, &mut proof);
    }
    shorten(&mut proof);
    Ok(proof)
}

/// What `pg_restore` makes of an archive.
async fn digest(
    server: &ThrowAwayServer,
    archive: &mut dyn StreamReader,
    key: ProofKey,
    cx: &CaptureContext,
) -> Result<DatabaseDigest> {
    let mut reader = Reader::new(key);
    let render = Invocation::new(&server.clients.tool("pg_restore"), ["--create", "-f", "-"], cx);
    feed(render, archive, |piece| {
        reader.update(piece);
        Ok(())
    })
    .await?;
    Ok(reader.finish())
}

fn count(stored: &DatabaseDigest, proof: &mut ProofResult) {
    proof.definitions += stored.definitions.values().map(|definitions| definitions.count).sum::<u64>();
    proof.tables += stored.tables.len() as u64;
    proof.rows += stored.tables.values().map(|rows| rows.count).sum::<u64>();
    proof.large_objects += stored.large_objects.keys().filter(|number| *number != "(frame)").count() as u64;
}

fn compare(database: &str, stored: &DatabaseDigest, restored: &DatabaseDigest, proof: &mut ProofResult) {
    let mut found = Vec::new();
    tell("definition of", "texts", &stored.definitions, &restored.definitions, &mut found);
    tell("table", "rows", &stored.tables, &restored.tables, &mut found);
    tell("large object", "contents", &stored.large_objects, &restored.large_objects, &mut found);
    proof.differences.extend(found.into_iter().map(|difference| format!("{}: {difference}", shown(database))));
}

async fn compare_globals(
    server: &ThrowAwayServer,
    streams: &dyn StoredStreams,
    key: ProofKey,
    proof: &mut ProofResult,
    cx: &CaptureContext,
) -> Result<()> {
    let text = read_globals(streams).await?;
    let connection = Connection::new(&server.connection(), None, cx)?;
    let name = conninfo("template1");
    let mut arguments = vec!["--globals-only", "--encoding=UTF8", "-w", "-d", &name];
    if !text.contains(" PASSWORD '") {
        arguments.push("--no-role-passwords");
    }
    let dump = Invocation::new(&server.clients.tool("pg_dumpall"), arguments, cx).envs(connection.variables());
    let restored = globals(&output(dump).await?, server.superuser(), key);
    let stored = globals(&text, server.superuser(), key);
    proof.definitions += stored.values().map(|statements| statements.count).sum::<u64>();
    tell("globals:", "statements", &stored, &restored, &mut proof.differences);
    Ok(())
}

/// Statements by their beginning, which holds no password hash. The bootstrap superuser's own are this server's, not
/// the snapshot's: its password is not restored.
fn globals(text: &str, superuser: &str, key: ProofKey) -> Titled {
    let mut titled = Titled::new();
    let own = [format!("ROLE {superuser} "), format!("ROLE {superuser};"), format!("ROLE \"{superuser}\"")];
    for statement in statements(text) {
        let bootstrap = own.iter().any(|own| statement.contains(own.as_str()));
        if bootstrap || is_of_tablespace(statement) || !statement.contains(' ') {
            continue;
        }
        let title: Vec<&str> = statement.trim_end_matches(['\n', ';']).split(' ').take(3).collect();
        let multiset: &mut Multiset = titled.entry(title.join(" ")).or_default();
        multiset.add(blake3::Hasher::new_keyed(&key).update(statement.as_bytes()));
    }
    titled
}

/// A dump that is read as a stream; its end is the tool's success.
struct Dump(Option<Tool>);

#[async_trait]
impl StreamReader for Dump {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(tool) = &mut self.0 else { return Ok(None) };
        let piece = tool.read().await?;
        if piece.is_none() {
            tool.finish(0).await?;
            self.0 = None;
        }
        Ok(piece)
    }
}
