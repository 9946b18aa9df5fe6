//! Proves that a restored server equals a snapshot. Globals are compared as statements, each part
//! of a database by its [digest](crate::postgres::throw_away::digest).
//!
//! Both sides go through the same `pg_restore`: the stored archive as it is, and a new dump of the
//! restored database. Where definitions differ as text,
//! [`settle`](crate::postgres::throw_away::settle) asks whether they mean the same.

use std::collections::BTreeSet;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lifeboat_base::Result;

use super::digest::{DatabaseDigest, Reader};
use super::render::{DEFINITIONS_ONLY, Dump, digest};
use super::server::ThrowAwayServer;
use super::settle;
use crate::database::WorkContext;
use crate::postgres::capture::OF_STANDBY;
use crate::postgres::connect::SETTLED_TEXT;
use crate::postgres::contents::Contents;
use crate::postgres::globals::{GLOBALS, is_of_tablespaces, membership_in, read_globals};
use crate::postgres::parts::{DumpPart, Table, TableName, by_database};
use crate::postgres::roles::several;
use crate::postgres::server::Server;
use crate::postgres::sql::{DATABASES, conninfo, quoted, rows};
use crate::postgres::tables;
use crate::postgres::tokens::Statements;
use crate::proof::ProofResult;
use crate::proof::multiset::{Multiset, ProofKey, Titled, shorten, tell};
use crate::streams::{StoredStreams, StreamReader};
use crate::tool::process::output;

/// Compares all globals and all databases.
pub(crate) async fn prove(
    server: &ThrowAwayServer,
    loaded: &[String],
    streams: &dyn StoredStreams,
    cx: &WorkContext,
) -> Result<ProofResult> {
    let key: ProofKey = rand::random();
    let mut proof = ProofResult {
        source_version: streams.facts().server_version.clone(),
        server_version: Some(server.version.clone()),
        ..ProofResult::default()
    };
    if let Some(source) = proof.source_version.as_ref().filter(|source| **source != server.version) {
        proof.notes.push(format!("captured from PostgreSQL {source}, restored into {}", server.version));
    }
    let superuser = server.superuser();
    let mut server = server.server(cx)?;
    if !streams.facts().details.contains_key(SETTLED_TEXT) {
        server.connection = server.connection.with_text_of_the_server();
    }
    let there = rows(&server.query_in("template1", DATABASES).await?);
    let names = streams.names();
    let stored = by_database(&names)?;
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
    let left_out = streams.left_out();
    // Their rows are nowhere, and so in no other part.
    let left_out = left_out.iter().filter_map(|stream| DumpPart::of_stream(stream)).filter(|(_, of)| of == database);
    let left_out = left_out.filter_map(|(part, _)| wanted(&part));
    let wanted: Vec<TableName> = parts.iter().filter_map(|(part, _)| wanted(part)).chain(left_out).collect();
    let tables = tables::named(server, database, &wanted.iter().collect::<Vec<_>>()).await?;
    let gone: Vec<&TableName> = wanted.iter().filter(|name| tables.iter().all(|table| table.name != **name)).collect();
    if !gone.is_empty() {
        let missing = |name: &&TableName| format!("{}: table {} is missing", quoted(database), name.quoted());
        proof.differences.extend(gone.iter().map(missing));
        return Ok(());
    }
    let Some((_, first)) = parts.first() else { return Ok(()) };
    let encoding = Contents::read(streams.open(first).await?.as_mut()).await?.encoding();
    let compared = parts.iter().map(|(part, stream)| {
        let sides = Sides { server, database, encoding: &encoding, part, stream, tables: &tables, streams, key };
        async move { sides.compare().await }.boxed()
    });
    let compared: Vec<_> = compared.collect();
    let compared: Vec<Compared> = stream::iter(compared).buffer_unordered(server.cx.jobs).try_collect().await?;
    for part in compared {
        count(&part.stored, proof);
        let say = |what: String| format!("{}: {what}", quoted(database));
        proof.differences.extend(part.differences.into_iter().map(say));
        proof.notes.extend(part.notes.into_iter().map(say));
    }
    Ok(())
}

/// What is compared: a stored part, and the same part of the restored database.
struct Sides<'a> {
    server: &'a Server<'a>,
    database: &'a str,
    /// That of the stored archives.
    encoding: &'a str,
    part: &'a DumpPart,
    stream: &'a str,
    tables: &'a [Table],
    streams: &'a dyn StoredStreams,
    key: ProofKey,
}

/// What a comparison found.
struct Compared {
    stored: DatabaseDigest,
    differences: Vec<String>,
    notes: Vec<String>,
}

impl Sides<'_> {
    /// Compares texts and rows. Only where they differ, it looks for another way to be equal.
    async fn compare(&self) -> Result<Compared> {
        let (mut stored, mut restored) = self.digests(&BTreeSet::new()).await?;
        let mut notes = Vec::new();
        let reordered = reordered(&stored, &restored);
        if !reordered.is_empty() {
            (stored, restored) = self.digests(&reordered).await?;
            let note = |table| format!("table {table}: the columns are in another order, and equal under their names");
            notes.extend(reordered.into_iter().map(note));
        }
        let differ = differing(&stored, &restored);
        if self.part.creates() && !differ.is_empty() {
            let settled = settle::settled(
                self.server,
                (self.database, self.encoding),
                self.stream,
                self.streams,
                differ,
                self.key,
            )
            .await?;
            for title in settled {
                // Only so many notes are kept, so those that are more than words come first.
                if title.starts_with("ACL ") {
                    let what =
                        "a right is granted by another role after a restore, as its grantor may no longer grant it";
                    notes.insert(0, format!("definition of {title}: {what}"));
                } else {
                    notes.push(format!("definition of {title}: PostgreSQL prints it in other words after a restore"));
                }
                restored.definitions.insert(title.clone(), stored.definitions.get(&title).copied().unwrap_or_default());
            }
        }
        if self.part.creates() && self.has_broken_name() {
            let mut archive = self.streams.open(self.stream).await?;
            stored.definitions.extend(of_database(archive.as_mut(), self.key).await?);
            drop(archive);
            let mut dump = Dump::start(self.server, self.database, self.encoding, vec![DEFINITIONS_ONLY.to_owned()])?;
            restored.definitions.extend(of_database(&mut dump, self.key).await?);
        }
        let mut differences = Vec::new();
        tell("definition of", "texts", &stored.definitions, &restored.definitions, &mut differences);
        tell("table", "rows", &stored.tables, &restored.tables, &mut differences);
        tell("large object", "contents", &stored.large_objects, &restored.large_objects, &mut differences);
        if differences.is_empty() {
            // Somebody has to set these by hand.
            notes.splice(0..0, other_owners(&stored, &restored));
        }
        Ok(Compared { stored, differences, notes })
    }

    /// `pg_restore` prints no statement that connects to such a database. So what belongs to the
    /// database as a whole is compared as the archives list it.
    fn has_broken_name(&self) -> bool {
        self.database.contains(['\n', '\r'])
    }

    /// The digests of both sides.
    async fn digests(&self, by_name: &BTreeSet<String>) -> Result<(DatabaseDigest, DatabaseDigest)> {
        let create = self.part.creates() && !self.has_broken_name();
        let reader = || Reader::new(self.key).by_name(by_name.clone());
        let mut archive = self.streams.open(self.stream).await?;
        let stored = digest(self.server, create, archive.as_mut(), reader()).await?;
        let mut arguments = self.part.dump_arguments(self.tables);
        if self.streams.facts().details.contains_key(OF_STANDBY) {
            // A standby has no rows of unlogged tables, and its dump not even their sections.
            arguments.push("--no-unlogged-table-data".to_owned());
        }
        let mut dump = Dump::start(self.server, self.database, self.encoding, arguments)?;
        let restored = digest(self.server, create, &mut dump, reader()).await?;
        Ok((stored, restored))
    }
}

/// What an archive says of its database as a whole.
async fn of_database(archive: &mut dyn StreamReader, key: ProofKey) -> Result<Titled> {
    let contents = Contents::read(archive).await?;
    let mut titled = Titled::new();
    for entry in contents.of_database() {
        let title = format!("{} of the database", String::from_utf8_lossy(contents.get(&entry.kind)));
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(contents.get(&entry.owner)).update(&[0]).update(contents.get(&entry.definition));
        titled.entry(title).or_default().add(&hasher);
    }
    Ok(titled)
}

/// Tables whose columns have another order: an inherited column that was added later comes before
/// the table's own ones in a restored table.
fn reordered(stored: &DatabaseDigest, restored: &DatabaseDigest) -> BTreeSet<String> {
    let titles = stored.columns.iter().filter(|(title, names)| {
        let statement = format!("TABLE DATA {title}");
        restored.columns.get(*title) == Some(names)
            && stored.definitions.get(&statement) != restored.definitions.get(&statement)
    });
    titles.map(|(title, _)| title.clone()).collect()
}

/// Objects with other owners, although all definitions are equal: so no definition holds the owner.
fn other_owners(stored: &DatabaseDigest, restored: &DatabaseDigest) -> Vec<String> {
    let note = |(title, owner): (&String, &String)| {
        let other = restored.owners.get(title).filter(|other| *other != owner)?;
        let object = title.strip_prefix("ACL ").unwrap_or(title);
        Some(format!(
            "{object}: the owner was {owner} and is {other} after a restore, as pg_dump does not hold it; set it by hand"
        ))
    };
    stored.owners.iter().filter_map(note).collect()
}

/// Definitions that both sides have, with different texts.
fn differing(stored: &DatabaseDigest, restored: &DatabaseDigest) -> BTreeSet<String> {
    let differ = |(title, text): &(&String, &Multiset)| {
        restored.definitions.get(*title).is_some_and(|other| other.count == text.count && other != *text)
    };
    stored.definitions.iter().filter(differ).map(|(title, _)| title.clone()).collect()
}

fn count(stored: &DatabaseDigest, proof: &mut ProofResult) {
    proof.definitions += stored.definitions.values().map(|definitions| definitions.count).sum::<u64>();
    proof.tables += stored.tables.len() as u64;
    proof.rows += stored.tables.values().map(|rows| rows.count).sum::<u64>();
    proof.large_objects += stored.large_objects.keys().filter(|number| *number != "(frame)").count() as u64;
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
    let (restored, _) = globals(&output(server.tool("pg_dumpall", arguments)).await?, superuser, None, key);
    let (stored, anew) = globals(&text, superuser, Some(superuser), key);
    if !anew.is_empty() {
        proof.notes.push(format!(
            "globals: memberships whose grantor the snapshot does not name, and {superuser} is it after a restore: {}",
            several(anew.iter().map(String::as_str))
        ));
    }
    proof.definitions += stored.values().map(|statements| statements.count).sum::<u64>();
    tell("globals:", "statements", &stored, &restored, &mut proof.differences);
    Ok(())
}

/// The statements by their beginnings, which hold no password hash. Statements about the bootstrap
/// superuser are left out: they are this server's own, as its password is not restored.
///
/// Before 16, a grantor may be dropped, and then a membership is dumped without one. A restore
/// grants it as `otherwise`. These memberships are returned, too.
fn globals(text: &str, superuser: &str, otherwise: Option<&str>, key: ProofKey) -> (Titled, Vec<String>) {
    let (mut titled, mut anew) = (Titled::new(), Vec::new());
    let own = [format!("ROLE {superuser} "), format!("ROLE {superuser};"), format!("ROLE \"{superuser}\"")];
    for read in Statements::new(text.as_bytes()) {
        let statement = text.get(read.place).unwrap_or_default();
        let bootstrap = own.iter().any(|own| statement.contains(own.as_str()));
        if bootstrap || read.tokens.as_deref().is_some_and(is_of_tablespaces) || !statement.contains(' ') {
            continue;
        }
        let title: Vec<&str> = statement.trim_end_matches(['\n', ';']).split(' ').take(3).collect();
        let multiset: &mut Multiset = titled.entry(title.join(" ")).or_default();
        let mut hasher = blake3::Hasher::new_keyed(&key);
        match read.tokens.as_deref().and_then(membership_in) {
            Some(mut membership) => {
                if let Some(otherwise) = otherwise.filter(|_| membership.grantor.is_none()) {
                    anew.push(format!("{} to {}", membership.role, membership.member));
                    membership.grantor = Some(otherwise.to_owned());
                }
                multiset.add(hasher.update(format!("{membership:?}").as_bytes()));
            }
            None => multiset.add(hasher.update(statement.as_bytes())),
        }
    }
    (titled, anew)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_without_a_grantor_is_granted_by_the_superuser_after_a_restore() {
        let of = |text: &str, otherwise| globals(text, "o'p", otherwise, [1; 32]);
        let stored = |text| of(text, Some("o'p"));
        let restored = |text| of(text, None).0;
        let (statements, anew) = stored("GRANT g TO \"B b\";\nGRANT h TO b WITH ADMIN OPTION GRANTED BY c;\n");
        assert_eq!(anew, ["g to B b"]);
        let same = "GRANT g TO \"B b\" GRANTED BY \"o'p\";\nGRANT h TO b WITH ADMIN OPTION GRANTED BY c;\n";
        assert_eq!(statements, restored(same));
        for (one, other) in [
            ("GRANT g TO b;", "GRANT g TO b GRANTED BY c;"),
            ("GRANT g TO b;", "GRANT g TO b WITH ADMIN OPTION GRANTED BY \"o'p\";"),
            ("GRANT g TO b;", "GRANT g TO c GRANTED BY \"o'p\";"),
            ("GRANT g TO b;", "GRANT h TO b GRANTED BY \"o'p\";"),
            ("GRANT g TO b GRANTED BY c;", "GRANT g TO b GRANTED BY \"o'p\";"),
            ("GRANT g TO b GRANTED BY \"o'p\";", "GRANT g TO b;"),
            ("GRANT SET ON PARAMETER x TO b;", "GRANT SET ON PARAMETER x TO b GRANTED BY \"o'p\";"),
            ("GRANT g TO b;", ""),
        ] {
            assert_ne!(stored(one).0, restored(other), "{one}");
        }
    }
}
