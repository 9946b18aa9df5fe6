//! Decides whether definitions whose texts differ are equal all the same.
//!
//! PostgreSQL prints some expressions in other words once they were dumped and restored: a cast
//! moves into an array, nested ANDs become flat. Two texts are equal only if both hold:
//!
//! - They have the same [normal form](crate::postgres::throw_away::normal), which knows these words
//!   and no others. A load that changes a meaning is found here: in a dump, some expressions cannot
//!   say which operator they mean, so a load may choose another one, and adds casts.
//! - The server itself makes the one of the other: the stored definitions are loaded into an empty
//!   database, and that is dumped. If they then read as those of the restored database, this holds.
//!   If not, the restored ones go the same way, because some come to rest only after two loads.
//!
//! Only definitions that both sides have are settled here: a load that loses one is a difference.

use std::collections::BTreeSet;

use lifeboat_base::Result;

use super::digest::{DatabaseDigest, Reader};
use super::render::{DEFINITIONS_ONLY, Dump, digest, digest_of_definitions};
use crate::postgres::server::Server;
use crate::postgres::sql::{conninfo, literal, quoted};
use crate::proof::multiset::ProofKey;
use crate::streams::{StoredStreams, StreamReader};
use crate::tool::process::feed_head;

/// The database from which others are created and dropped.
const OUTSIDE: &str = "template1";

/// Those of the definitions `titles` of a database that are equal to those in `stream`, which is in
/// the encoding that is given with its name.
///
/// # Errors
/// The restored database cannot be dumped. Definitions that cannot be loaded again stay different.
pub(super) async fn settled(
    server: &Server<'_>,
    (database, encoding): (&str, &str),
    stream: &str,
    streams: &dyn StoredStreams,
    mut titles: BTreeSet<String>,
    key: ProofKey,
) -> Result<BTreeSet<String>> {
    let stored = {
        let mut archive = streams.open(stream).await?;
        digest_of_definitions(server, archive.as_mut(), Reader::new(key).in_normal_form()).await?
    };
    let restored = definitions(server, (database, encoding), Reader::new(key).in_normal_form()).await?;
    titles.retain(|title| are_equal(title, &stored, &restored));
    if titles.is_empty() {
        return Ok(titles);
    }
    // No stream stays open while another is read: the same source may feed both.
    let stored = {
        let mut archive = streams.open(stream).await?;
        loaded_again(server, (database, encoding), archive.as_mut(), key).await
    };
    let Some(stored) = stored else { return Ok(BTreeSet::new()) };
    let restored = definitions(server, (database, encoding), Reader::new(key)).await?;
    let (mut settled, titles): (BTreeSet<String>, BTreeSet<String>) =
        titles.into_iter().partition(|title| are_equal(title, &stored, &restored));
    if !titles.is_empty() {
        let mut dump = Dump::start(server, database, encoding, vec![DEFINITIONS_ONLY.to_owned()])?;
        if let Some(again) = loaded_again(server, (database, encoding), &mut dump, key).await {
            settled.extend(titles.into_iter().filter(|title| are_equal(title, &stored, &again)));
        }
    }
    Ok(settled)
}

fn are_equal(title: &String, one: &DatabaseDigest, other: &DatabaseDigest) -> bool {
    let text = one.definitions.get(title);
    text.is_some() && text == other.definitions.get(title)
}

/// What the definitions of an archive read as after one more load, into a database of its own that
/// is like `like`. `None` if that fails.
async fn loaded_again(
    server: &Server<'_>,
    (like, encoding): (&str, &str),
    archive: &mut dyn StreamReader,
    key: ProofKey,
) -> Option<DatabaseDigest> {
    let name = format!("lifeboat_{:016x}", rand::random::<u64>());
    let read = async {
        let of_database = server.encoding_of(like).await?;
        let create = format!(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'",
            quoted(&name),
            literal(&of_database)
        );
        server.finish_in(OUTSIDE, &create).await?;
        // A database with a subscription cannot be dropped.
        let how = ["--exit-on-error", "-w", "--no-tablespaces", "--no-subscriptions", DEFINITIONS_ONLY, "-d"];
        let into = conninfo(&name);
        let load = server.tool("pg_restore", how.into_iter().chain([into.as_str()]));
        feed_head(load, archive, |_| Ok(()), &[0]).await?;
        definitions(server, (&name, encoding), Reader::new(key)).await
    };
    let read = read.await;
    // It is dropped although the drill was cancelled, too.
    let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(&name));
    if let Err(error) = server.finish_in(OUTSIDE, &drop).await {
        tracing::warn!(database = name, error = %error.chain(), "a database of the throw-away server could not be dropped");
    }
    match read {
        Ok(digest) => Some(digest),
        Err(error) => {
            tracing::warn!(database = like, error = %error.chain(), "definitions that differ as text could not be loaded once more");
            None
        }
    }
}

/// The definitions of a database of the throw-away server.
async fn definitions(
    server: &Server<'_>,
    (database, encoding): (&str, &str),
    reader: Reader,
) -> Result<DatabaseDigest> {
    let mut dump = Dump::start(server, database, encoding, vec![DEFINITIONS_ONLY.to_owned()])?;
    digest(server, false, &mut dump, reader).await
}
