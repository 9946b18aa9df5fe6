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
//! What comes after the tables is put aside on disk until then. One client alone loads all tables
//! in the order of the dump if only one is wanted, if tables of the engine MERGE are among them,
//! whose triggers need the tables below, and if the dump begins with anything but settings and
//! sequences.
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
use super::fit;
use super::server::MariaServer;
use crate::streams::{StoredStreams, StreamReader};
use crate::tool::process::feed;

/// So many clients load a database at most: each of them reads all of the stream.
const MAX_LOADING_CLIENTS: usize = 4;

/// What each session that loads begins with: it says nothing while its client reads past tables of
/// others, in a transaction or not.
const LOADING_SESSION: &str = "SET SESSION wait_timeout = 31536000 /*M!100300 , SESSION idle_transaction_timeout = 0, \
    SESSION idle_write_transaction_timeout = 0, SESSION idle_readonly_transaction_timeout = 0 */;\n";
/// The engine of tables that stand for several others.
const MERGE_ENGINE: &str = "MRG_MyISAM";

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
    let before = format!("{LOADING_SESSION}{before}");
    let target = LoadTarget { server, into, before: &before };
    let loaded = async {
        let claims = Claims::default();
        let clients = match has_merged_tables(streams, stream) {
            true => 1,
            false => server.cx.jobs.clamp(1, MAX_LOADING_CLIENTS),
        };
        let lead = async {
            let mut share = Share::leading(streams.open(stream).await?, &target, &claims, clients > 1)?;
            target.feed(&mut share).await?;
            share.put_aside().ok_or_else(|| Error::failed("the first connection put nothing aside"))
        };
        let others = (1..clients).map(|_| async {
            match claims.begin_to_share().await {
                true => target.feed(&mut Share::following(streams.open(stream).await?, &target, &claims)).await,
                false => Ok(()),
            }
        });
        let ((mut routines, views), _) = futures::try_join!(lead, try_join_all(others))?;
        target.load_aside(&mut routines).await?;
        Ok(DumpedViews(views))
    };
    loaded.await.map_err(|error| refused(error, into))
}

fn has_merged_tables(streams: &dyn StoredStreams, stream: &str) -> bool {
    fit::engines_in(streams.facts(), stream).any(|engine| engine.eq_ignore_ascii_case(MERGE_ENGINE))
}

fn refused(error: Error, database: &str) -> Error {
    explained(error).within(format!("cannot load database {}", database.escape_debug()))
}

impl DumpedViews {
    /// Loads the views into the database `into`.
    ///
    /// # Errors
    /// The server refuses one.
    pub(super) async fn load(self, server: &MariaServer<'_>, into: &str) -> Result<()> {
        let Self(mut views) = self;
        let loaded = LoadTarget { server, into, before: "" }.load_aside(&mut views).await;
        loaded.map_err(|error| refused(error, into))
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
        feed(self.server.client(Some(self.into)), input, |_| Ok(())).await
    }
}
