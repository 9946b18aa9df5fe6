//! Reads archives as the text that `pg_restore` makes of them: stored ones, and new dumps of the
//! throw-away server.

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::Result;

use super::digest::{DatabaseDigest, Reader};
use crate::postgres::server::Server;
use crate::streams::StreamReader;
use crate::tool::process::{Invocation, Tool, feed, feed_head};

/// A dump or a load of definitions alone.
pub(super) const DEFINITIONS_ONLY: &str = "--schema-only";

/// The digest of what `pg_restore` makes of an archive.
pub(super) async fn digest(
    server: &Server<'_>,
    create: bool,
    archive: &mut dyn StreamReader,
    mut reader: Reader,
) -> Result<DatabaseDigest> {
    let create = create.then_some("--create");
    let arguments = create.into_iter().chain(["--no-tablespaces", "-f", "-"]);
    let render = Invocation::new(&server.clients.tool("pg_restore"), arguments, server.cx);
    feed(render, archive, |piece| {
        reader.update(piece);
        Ok(())
    })
    .await?;
    Ok(reader.finish())
}

/// The digest of the definitions alone, which are at the beginning of an archive.
pub(super) async fn digest_of_definitions(
    server: &Server<'_>,
    archive: &mut dyn StreamReader,
    mut reader: Reader,
) -> Result<DatabaseDigest> {
    let arguments = [DEFINITIONS_ONLY, "--no-tablespaces", "-f", "-"];
    let render = Invocation::new(&server.clients.tool("pg_restore"), arguments, server.cx);
    feed_head(
        render,
        archive,
        |piece| {
            reader.update(piece);
            Ok(())
        },
        &[0],
    )
    .await?;
    Ok(reader.finish())
}

/// A dump that is read as a stream. It ends only if the tool has succeeded.
pub(super) struct Dump(Option<Tool>);

impl Dump {
    /// Begins to dump a database of `server`, in the encoding of the archive that it is compared
    /// with.
    pub(super) fn start(server: &Server<'_>, database: &str, encoding: &str, arguments: Vec<String>) -> Result<Self> {
        Ok(Self(Some(server.dump_tool(database, encoding, arguments).start(false)?)))
    }
}

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
