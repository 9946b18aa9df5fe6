//! Proves that a restored server equals a snapshot. Globals are compared as statements, each part
//! of a database by its [digest](crate::postgres::throw_away::digest).
//!
//! Both sides go through the same `pg_restore`: the stored archive as it is, and a new dump of the
//! restored database.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lifeboat_base::{Error, Result};

use super::digest::{DatabaseDigest, Reader};
use super::server::ThrowAwayServer;
use crate::database::WorkContext;
use crate::postgres::connect::SETTLED_TEXT;
use crate::postgres::contents::{Contents, Resumed};
use crate::postgres::creation::without_tablespace;
use crate::postgres::globals::{GLOBALS, is_of_tablespace, read_globals, statements};
use crate::postgres::parts::{DumpPart, TableName, by_database};
use crate::postgres::server::Server;
use crate::postgres::sql::{DATABASES, conninfo, quoted, rows};
use crate::postgres::tables;
use crate::proof::ProofResult;
use crate::proof::multiset::{Multiset, ProofKey, Titled, shorten, tell};
use crate::streams::{StoredStreams, StreamReader};
use crate::tool::process::{Invocation, Tool, feed, output};

/// Compares all globals and all databases.
pub(crate) async fn prove(
    server: &ThrowAwayServer,
    loaded: &[String],
    streams: &dyn StoredStreams,
    cx: &WorkContext,
) -> Result<ProofResult> {
    let key: ProofKey = rand::random();
    let mut proof = ProofResult::default();
    let superuser = server.superuser();
    let mut server = server.server(cx)?;
    if !streams.facts().details.contains_key(SETTLED_TEXT) {
        server.connection = server.connection.with_text_of_the_server();
    }
    let there = rows(&server.query_in("template1", DATABASES).await?);
    let names = streams.names();
    let stored = by_database(&names);
    for database in there.iter().filter(|name| stored.iter().all(|(stored, _)| stored != *name) && *name != "postgres")
    {
        proof.differences.push(format!("database {} is only in the restored server", quoted(database)));
    }
    if names.iter().any(|name| name == GLOBALS) {
        compare_globals(&server, superuser, streams, key, &mut proof).await?;
    }
    for (database, parts) in stored {
        if !there.contains(&database) || !loaded.contains(&database) {
            proof.differences.push(format!("database {} is missing in the restored server", quoted(&database)));
            continue;
        }
        compare_database(&server, &database, &parts, streams, key, &mut proof).await?;
    }
    shorten(&mut proof);
    Ok(proof)
}

/// Compares a database part by part. Each part is dumped again as the capture dumped it. As many
/// run at once as there may be connections.
async fn compare_database(
    server: &Server<'_>,
    database: &str,
    parts: &[(DumpPart, &str)],
    streams: &dyn StoredStreams,
    key: ProofKey,
    proof: &mut ProofResult,
) -> Result<()> {
    let wanted = |part: &DumpPart| if let DumpPart::Table(name) = part { Some(name.clone()) } else { None };
    let wanted: Vec<TableName> = parts.iter().filter_map(|(part, _)| wanted(part)).collect();
    let tables = tables::named(server, database, &wanted.iter().collect::<Vec<_>>()).await?;
    let gone: Vec<&TableName> = wanted.iter().filter(|name| tables.iter().all(|table| table.name != **name)).collect();
    if !gone.is_empty() {
        let missing = |name: &&TableName| format!("{}: table {} is missing", quoted(database), name.quoted());
        proof.differences.extend(gone.iter().map(missing));
        return Ok(());
    }
    let digests = parts.iter().map(|(part, stream)| {
        let (server, tables) = (server, &tables);
        async move {
            let mut archive = streams.open(stream).await?;
            let stored = digest(server, part, archive.as_mut(), key).await?;
            let dump = server.dump_tool(database, part.dump_arguments(tables)).start(false)?;
            let restored = digest(server, part, &mut Dump(Some(dump)), key).await?;
            Ok::<_, Error>((stored, restored))
        }
        .boxed()
    });
    let digests: Vec<_> = digests.collect();
    let digests: Vec<_> = stream::iter(digests).buffer_unordered(server.cx.jobs).try_collect().await?;
    for (stored, restored) in digests {
        count(&stored, proof);
        compare(database, &stored, &restored, proof);
    }
    Ok(())
}

/// The digest of what `pg_restore` makes of an archive.
async fn digest(
    server: &Server<'_>,
    part: &DumpPart,
    archive: &mut dyn StreamReader,
    key: ProofKey,
) -> Result<DatabaseDigest> {
    let mut reader = Reader::new(key);
    let create = part.creates().then_some("--create");
    let arguments = create.into_iter().chain(["--no-tablespaces", "-f", "-"]);
    let render = Invocation::new(&server.clients.tool("pg_restore"), arguments, server.cx);
    // A restore puts everything into the default tablespace.
    let mut pieces = Vec::new();
    if part.creates() {
        let mut contents = Contents::read(archive).await?;
        pieces.extend([without_tablespace(&contents), contents.take_rest()]);
    }
    feed(render, &mut Resumed { pieces, archive }, |piece| {
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
    proof.differences.extend(found.into_iter().map(|difference| format!("{}: {difference}", quoted(database))));
}

async fn compare_globals(
    server: &Server<'_>,
    superuser: &str,
    streams: &dyn StoredStreams,
    key: ProofKey,
    proof: &mut ProofResult,
) -> Result<()> {
    let text = read_globals(streams).await?;
    let name = conninfo("template1");
    let mut arguments = vec!["--globals-only", "--encoding=UTF8", "-w", "-d", &name];
    if !text.contains(" PASSWORD '") {
        arguments.push("--no-role-passwords");
    }
    let restored = globals(&output(server.tool("pg_dumpall", arguments)).await?, superuser, key);
    let stored = globals(&text, superuser, key);
    proof.definitions += stored.values().map(|statements| statements.count).sum::<u64>();
    tell("globals:", "statements", &stored, &restored, &mut proof.differences);
    Ok(())
}

/// The statements by their beginnings, which hold no password hash. Statements about the bootstrap
/// superuser are left out: they are this server's own, as its password is not restored.
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

/// A dump that is read as a stream. It ends only if the tool has succeeded.
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
