//! Where a database is loaded: under its own name, or beside the one that it replaces.
//!
//! The new database takes the name of the old one in a single transaction, so there is always one
//! database of that name. Only then is the old one dropped. What a killed restore left is
//! recognised by its name, or by a mark in its comment, and told by the next restore.

use std::time::Duration;

use lifeboat_base::{Error, Result};

use super::creation::LOADING_MARK;
use super::loader::LOADERS;
use super::roles::several;
use super::server::Server;
use super::sql::{literal, quoted, rows};

/// How the name begins of a database that is loaded beside another.
const LOADING: &str = "lifeboat-loading-";
/// How the name begins of a database that was replaced.
const REPLACED: &str = "lifeboat-replaced-";
/// The server waits some seconds for others to leave; then we try again, so often.
const MAX_ATTEMPTS: usize = 5;
/// How often others are sent away in that time.
const DISCONNECT_INTERVAL: Duration = Duration::from_millis(300);

/// Catalogues of what a database may hold.
const CATALOGS: [&str; 25] = [
    "pg_class",
    "pg_proc",
    "pg_type",
    "pg_namespace",
    "pg_extension",
    "pg_largeobject_metadata",
    "pg_am",
    "pg_cast",
    "pg_collation",
    "pg_conversion",
    "pg_default_acl",
    "pg_event_trigger",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_language",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_publication",
    "pg_transform",
    "pg_ts_config",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_statistic_ext",
];

/// Where a database is loaded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    target: String,
    /// Unless it is loaded under its own name: what tells both databases from others.
    beside: Option<String>,
    name: String,
}

impl Place {
    /// Under its own name.
    pub(crate) fn itself(target: &str) -> Self {
        Self { target: target.to_owned(), beside: None, name: target.to_owned() }
    }

    /// Beside the database that it is to replace.
    pub(crate) fn beside(target: &str) -> Self {
        let mark = format!("{:08x}", rand::random::<u32>());
        Self { target: target.to_owned(), name: format!("{LOADING}{mark}"), beside: Some(mark) }
    }

    /// The name under which it is loaded.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Server<'_> {
    /// Gives a database that was loaded beside another its name. The other one is dropped if the
    /// new one is `whole`. Returns what an operator should know.
    ///
    /// # Errors
    /// The two cannot be exchanged; or the old one is not empty, without `overwrite`. Then the old
    /// one is as it was, and the new one is dropped, or told if others may have been in it.
    pub(crate) async fn settle(&self, place: &Place, whole: bool, overwrite: bool) -> Result<Option<String>> {
        let Place { target, beside: Some(mark), name } = place else { return Ok(None) };
        // Somebody may have filled it while we loaded.
        if let Err(error) = self.refuse_occupied(target, overwrite).await {
            self.drop_half_loaded(name).await;
            return Err(error);
        }
        let replaced = format!("{REPLACED}{mark}");
        let failed = format!("cannot replace database {target}, which is as it was");
        if let Err(error) = self.exchange(target, name, &replaced).await {
            self.drop_half_loaded(name).await;
            return Err(error.within(failed).hint(
                "connect as a role that may rename it and disconnect others, such as a superuser; or restore under another name with --rename",
            ));
        }
        // Nobody was in it when it got this name, and nobody knows the name: now it stays as it is.
        if !overwrite && !matches!(self.look(&replaced).await, Ok((true, _))) {
            self.exchange(target, &replaced, name).await.map_err(|error| {
                error.within(format!("database {target} was filled while this restore ran, and is now {replaced}"))
            })?;
            // Somebody may have come into the new one meanwhile, so it is not dropped.
            return Err(Error::usage(format!("database {target} was filled while this restore ran"))
                .within(failed)
                .hint(format!("what was restored is kept as {name}: rename it, or drop it")));
        }
        if !whole {
            return Ok(Some(format!(
                "database {target} lacks what could not be loaded; the one that it replaced is kept as {replaced}"
            )));
        }
        let drop = format!("DROP DATABASE {} WITH (FORCE)", quoted(&replaced));
        Ok(self.query_in(self.outside(target), &drop).await.err().map(|error| {
            format!(
                "the database that {target} replaced is still there as {replaced}; drop it by hand: {}",
                error.chain()
            )
        }))
    }

    async fn exchange(&self, target: &str, name: &str, replaced: &str) -> Result<()> {
        let [old, new, gone] = [target, name, replaced].map(quoted);
        // One request is one transaction.
        let swap = format!("ALTER DATABASE {old} RENAME TO {gone}; ALTER DATABASE {new} RENAME TO {old}");
        let others = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname IN ({}, {}) AND pid <> pg_backend_pid()",
            literal(target),
            literal(name)
        );
        let outside = self.outside(target);
        let mut last = None;
        for _ in 0..MAX_ATTEMPTS {
            // While the server waits for others to leave, it lets nobody in.
            let swapping = self.query_in(outside, &swap);
            let disconnecting = async {
                loop {
                    let _ = self.query_in(outside, &others).await;
                    tokio::time::sleep(DISCONNECT_INTERVAL).await;
                }
            };
            let swapped: Result<String> = tokio::select! {
                swapped = swapping => swapped,
                never = disconnecting => never,
            };
            match swapped {
                Ok(_) => return Ok(()),
                Err(error) if self.cx.cancel.is_cancelled() => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::source_failed("the databases were not exchanged")))
    }

    /// Tells what restores that were cut short left behind.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub(crate) async fn leftovers(&self) -> Result<Option<String>> {
        let sql = format!(
            "SELECT 'database ' || datname FROM pg_database WHERE datname LIKE {} OR datname LIKE {} OR shobj_description(oid, 'pg_database') = {}
             UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ {} ORDER BY 1",
            literal(&format!("{LOADING}%")),
            literal(&format!("{REPLACED}%")),
            literal(LOADING_MARK),
            literal(LOADERS)
        );
        let left = rows(&self.query(&sql).await?);
        Ok((!left.is_empty()).then(|| {
            format!("left by a restore that was cut short, unless one is at work now: {}; if you need none of them, drop them", several(left.iter().map(String::as_str)))
        }))
    }

    /// Refuses a database that is not empty, unless it is to be overwritten.
    ///
    /// # Errors
    /// It is not empty.
    pub(crate) async fn refuse_occupied(&self, target: &str, overwrite: bool) -> Result<()> {
        if overwrite || !self.exists(target).await? {
            return Ok(());
        }
        match self.look(target).await? {
            (true, _) => Ok(()),
            (false, true) => {
                Err(Error::usage(format!("database {target} is half loaded: a restore into it was cut short"))
                    .hint("pass --overwrite to replace it"))
            }
            (false, false) => Err(Error::usage(format!("database {target} exists and is not empty"))
                .hint("restore under another name with --rename, or pass --overwrite to replace it")),
        }
    }

    /// Whether nothing was made in a database, and whether a restore marked it as unfinished.
    async fn look(&self, target: &str) -> Result<(bool, bool)> {
        // What a new database has from the start has a number below 16384.
        // Sessions that had temporary tables leave empty schemas.
        let temporary =
            "(SELECT -count(*) FROM pg_namespace WHERE oid >= 16384 AND nspname ~ '^pg_(toast_)?temp_[0-9]+$')";
        let counts = CATALOGS.map(|catalog| format!("(SELECT count(*) FROM {catalog} WHERE oid >= 16384)"));
        let marked = format!(
            "(SELECT count(*) FROM pg_database WHERE datname = {} AND shobj_description(oid, 'pg_database') = {})",
            literal(target),
            literal(LOADING_MARK)
        );
        let made = self.query_in(target, &format!("SELECT {temporary} + {}, {marked}", counts.join(" + "))).await?;
        let (made, marked) = made.trim().split_once('\u{1f}').unwrap_or_default();
        Ok((made == "0", marked == "1"))
    }

    /// Drops a database although the restore was cancelled, or because it was.
    pub(crate) async fn drop_half_loaded(&self, place: &str) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(place));
        if let Err(error) = self.finish_in(self.outside(place), &drop).await {
            tracing::warn!(database = place, error = %error.chain(), "the half-loaded database could not be dropped");
        }
    }
}
