//! Loads dumps: their tables over several connections, then events and routines, and the views of
//! all databases at the very end.
//!
//! - **Tables**: a dump is one stream, and a server takes it far more slowly than it can be read.
//!   So each client reads all of it, and loads the tables that no other one has claimed: the next
//!   one goes to whoever comes to it first. Their sessions do not check foreign keys, as the dump
//!   says.
//! - **Before them**: sequences, which the defaults of tables use.
//! - **After them**: events and routines, which could use a table that is not whole yet.
//! - **Views** may use tables, views and functions of any database, and the server wants them to
//!   exist. A dump makes stand-ins for them at first.
//!
//! What comes after the tables is put aside on disk until then. A dump that does more before its
//! first table than a dump does is loaded over one connection, in its order.
//!
//! The client takes a dump with `--binary-mode` and `--sandbox`: it obeys `DELIMITER`, and none of
//! its commands that run programs, read files or connect elsewhere.

mod aside;
mod sections;
mod share;

use futures::future::try_join_all;
use lifeboat_base::{Error, Result};

use self::aside::Aside;
use self::share::{Claims, Share};
use super::failures::explained;
use super::server::MariaServer;
use crate::streams::{StoredStreams, StreamReader};
use crate::tool::process::feed;

/// So many clients load a database at most: each of them reads all of the stream.
const MAX_LOADING_CLIENTS: usize = 4;

/// The views of a dump, put aside.
#[derive(Debug)]
pub(super) struct DumpedViews(Aside);

/// Loads a dump into the database `into`, all but its views. `before` is SQL that each session
/// begins with.
///
/// # Errors
/// The stream cannot be read to its checked end, or the server refuses something.
pub(super) async fn load_database(
    server: &MariaServer<'_>,
    streams: &dyn StoredStreams,
    stream: &str,
    into: &str,
    before: &str,
) -> Result<DumpedViews> {
    let target = LoadTarget { server, into, before };
    let claims = Claims::default();
    let lead = async {
        let mut share = Share::leading(streams.open(stream).await?, &target, &claims)?;
        target.feed(&mut share).await?;
        share.put_aside().ok_or_else(|| Error::failed("the first connection put nothing aside"))
    };
    let clients = server.cx.jobs.clamp(1, MAX_LOADING_CLIENTS);
    let others = (1..clients).map(|_| async {
        match claims.begin_to_share().await {
            true => target.feed(&mut Share::following(streams.open(stream).await?, &target, &claims)).await,
            false => Ok(()),
        }
    });
    let ((mut routines, views), _) = futures::try_join!(lead, try_join_all(others))?;
    target.load_aside(&mut routines).await?;
    Ok(DumpedViews(views))
}

impl DumpedViews {
    /// Loads the views into the database `into`.
    ///
    /// # Errors
    /// The server refuses one.
    pub(super) async fn load(self, server: &MariaServer<'_>, into: &str) -> Result<()> {
        let Self(mut views) = self;
        LoadTarget { server, into, before: "" }.load_aside(&mut views).await
    }
}

/// The database that a dump is loaded into.
struct LoadTarget<'s> {
    server: &'s MariaServer<'s>,
    into: &'s str,
    /// SQL that each session begins with.
    before: &'s str,
}

impl LoadTarget<'_> {
    async fn load_aside(&self, aside: &mut Aside) -> Result<()> {
        if aside.is_empty() { Ok(()) } else { self.feed(aside).await }
    }

    /// Runs a client that takes `input`.
    async fn feed(&self, input: &mut dyn StreamReader) -> Result<()> {
        let client = self.server.client(Some(self.into));
        feed(client, input, |_| Ok(()))
            .await
            .map_err(|error| explained(error).within(format!("cannot load database {}", self.into.escape_debug())))
    }
}
