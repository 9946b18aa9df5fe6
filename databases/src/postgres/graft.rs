//! Puts tables of a snapshot into a database that lives, beside what is there.
//!
//! - **One transaction**: definitions, rows, indexes and keys. Until it is done, nobody sees any of
//!   it, and a table that is to be replaced is as it was. What fails leaves nothing behind.
//! - **A role without rights** does it, as for a whole database ([`super::loader`]): it may create
//!   in the tables' schemas, and refer to the tables of foreign keys. No [guard](super::guard)
//!   stands in a database that others use. Instead, only [plain] definitions are run, in an archive
//!   of [our own](super::own_archive); and as the last act of the transaction, a function of the
//!   superuser looks whether the role made anything else, gave anything away, or was changed.
//! - **Owners, grants and values of sequences** come after it, by statements written anew.
//!
//! [plain]: super::plain

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_base::{Class, Error, Result};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::contents::{Contents, ContentsEntry};
use super::extract::{LEFT_OUT_REASON, Picked, PickedRelation};
use super::failures::Failures;
use super::fill::Filling;
use super::graft_look::{NO_POLICY, add_look, nothing_else};
use super::grafted::{GraftedRows, RowSource};
use super::heirs::{qualified, refuse_torn};
use super::items::{Items, drain};
use super::loader::{Loader, LoadsAs};
use super::loading::{Loaded, Loading};
use super::names::TypedName;
use super::orphans::ORPHANS;
use super::own_archive::{OwnArchive, OwnEntry, copy_into};
use super::ownership::Ownership;
use super::parts::{DumpPart, TableName};
use super::plain::is_plain;
use super::query::query;
use super::refusals::Refusals;
use super::roles::several;
use super::server::Server;
use super::sql::{literal, quoted, quoted_name};
use super::steps::{MAX_STEPS, Step};
use super::there::{SoughtThing, there};
use super::values::values_of;
use crate::database::WorkContext;
use crate::streams::Once;
use crate::wanted::LoadFailure;

/// The section of what comes after rows.
const POST_DATA: i64 = 4;
/// How often it is looked whether sessions have ended.
const SESSION_LOOK: Duration = Duration::from_millis(100);
/// What a table may need of its database, as its catalogues list it.
const NEEDED_KINDS: [&[u8]; 9] =
    [b"SCHEMA", b"TYPE", b"DOMAIN", b"EXTENSION", b"SEQUENCE", b"TABLE", b"COLLATION", b"FUNCTION", b"ACCESS METHOD"];

/// Tables to be put into a database.
pub(super) struct Graft<'a> {
    pub(super) server: &'a Server<'a>,
    pub(super) loading: &'a Loading<'a>,
    pub(super) tables: &'a [TableName],
    /// The database that gets them.
    pub(super) place: &'a str,
    /// Replace tables that are there.
    pub(super) overwrite: bool,
}

/// What a load has left in the database.
enum WhatIsLeft {
    Nothing,
    /// The transaction was committed.
    Tables,
}

/// The tables are committed, and what comes after failed.
fn half_done(error: Error, role: &str) -> Error {
    error
        .within(format!("the tables are restored, and what they replace is gone, but the restore did not end: they may still belong to {role}, without their grants and the values of their sequences"))
        .hint("give them to their owner, grant what the source grants, and set their sequences; or run the same command again with --overwrite")
}

/// What was found out before anything is changed.
struct GraftPlan {
    /// The definitions of what is wanted.
    contents: Contents,
    picked: Picked,
    sources: Vec<RowSource>,
    ownership: Ownership,
    /// The tables that are replaced.
    replaced: Vec<String>,
}

impl Graft<'_> {
    /// Does it. Returns what an operator should know.
    ///
    /// # Errors
    /// A table is there, or what it needs is not; those of a stream, of the server, or of
    /// `pg_restore`. Then the database is as it was, unless the error says that the tables are
    /// restored. [`Class::Unknown`]: nobody can tell.
    pub(super) async fn run(&self, parts: &[(DumpPart, &str)]) -> Result<Loaded> {
        let within = |error: Error| error.within(format!("cannot restore into database {}", self.place));
        let mut plan = self.plan(parts).await.map_err(within)?;
        let LoadsAs::Loader(loader) = self.loading.loads_as else {
            let filling = self.filling(None);
            self.transplant(&filling, &mut plan, None).await.map_err(within)?;
            let after = |error: Error| within(half_done(error, "the role that connects"));
            return self.hand_over(&filling, plan).await.map_err(after);
        };
        let helper = loader.role.replace("loader", "helper");
        let moved = async {
            self.let_in(loader, &plan, &helper).await?;
            let own = loader.enter(self.server, self.place).await?;
            let filling = self.filling(Some(own));
            self.transplant(&filling, &mut plan, Some(&helper)).await?;
            Ok(filling)
        };
        let moved: Result<Filling<'_>> = moved.await;
        let closed = self.close(&loader.role, &helper, moved.is_err()).await;
        let filling = match (moved, closed) {
            (Ok(filling), Ok(_)) => filling,
            (Ok(_), Err(error)) => return Err(within(half_done(error, &loader.role))),
            (Err(error), Ok(WhatIsLeft::Nothing)) => return Err(within(error)),
            (Err(error), Ok(WhatIsLeft::Tables)) => return Err(within(half_done(error, &loader.role))),
            (Err(error), Err(left)) => {
                let (role, left) = (&loader.role, left.chain());
                tracing::warn!(
                    role,
                    error = left,
                    "it is not known whether the tables were restored; see what this role owns"
                );
                return Err(within(Error::new(Class::Unknown, error.chain()).hint(format!(
                    "look whether the tables are there and belong to {role}; if so, give them to their owner and drop that role"
                ))));
            }
        };
        let after = |error: Error| within(half_done(error, &loader.role));
        let loaded = self.hand_over(&filling, plan).await.map_err(after)?;
        loader.give_back(self.server, self.place, ORPHANS).await.map_err(after)?;
        Ok(loaded)
    }

    fn filling<'f>(&'f self, as_loader: Option<Server<'f>>) -> Filling<'f> {
        let Loading { streams, database, roles, keep_going: _, loads_as, .. } = *self.loading;
        Filling {
            server: self.server,
            streams,
            database,
            place: self.place,
            keep_going: false,
            roles,
            failures: Failures::default(),
            made: AtomicBool::new(false),
            loads_as,
            as_loader,
            ownership: Mutex::default(),
            chosen: self.loading.chosen,
        }
    }

    async fn plan(&self, parts: &[(DumpPart, &str)]) -> Result<GraftPlan> {
        let Loading { streams, database, roles, .. } = self.loading;
        let Some((first, name)) = parts.first().filter(|(part, _)| part.creates()) else {
            return Err(Error::integrity(format!("the snapshot has no definitions of database {database}")));
        };
        let failed = |error: Error| error.within(format!("cannot read {name}"));
        let mut archive = streams.open(name).await?;
        let mut contents = Contents::read(archive.as_mut()).await.map_err(failed)?;
        let mut picked = Picked::of(&contents, database, self.tables)?;
        let replaced = self.replaced(&picked).await?;
        self.refuse_needy(&contents, &picked).await?;
        let keys: Vec<(&[u8], &[u8])> = picked.foreign_keys.iter().map(|key| (&key.to.0[..], &key.to.1[..])).collect();
        let keys: Vec<SoughtThing> =
            keys.iter().filter_map(|(schema, name)| SoughtThing::table(schema, name)).collect();
        let found = there(self.server, self.place, &keys).await?;
        let found: BTreeSet<&SoughtThing> =
            keys.iter().zip(found).filter(|(_, found)| *found).map(|(key, _)| key).collect();
        picked.without_foreign_keys(&contents, |key| {
            SoughtThing::table(&key.to.0, &key.to.1).is_some_and(|key| found.contains(&key))
        });
        let (mut sources, mut ownership) = (Vec::new(), Ownership::default());
        let lacking = picked.tables.iter().filter(|table| holds_rows(&contents, table));
        let mut lacking: BTreeSet<i64> = lacking.map(|table| table.id).collect();
        let mut strange = Vec::new();
        if *first == DumpPart::Whole {
            let of_picked = |entry: &_| picked.is_row_entry(&contents, entry);
            ownership.values.append(values_of(&contents, of_picked, &mut strange)?)?;
            let source = RowSource::of(name, false, &contents, &picked)?;
            source.takes_from(&mut lacking, &picked);
            sources.push(source.opened(Items::new(contents.take_rest(), archive)));
        } else {
            drain(archive.as_mut()).await.map_err(failed)?;
            let rows = picked.parts(parts);
            for (part, name) in rows.iter().filter(|(part, _)| !part.creates()) {
                let mut archive = streams.open(name).await?;
                let failed = |error: Error| error.within(format!("cannot read {name}"));
                let mut contents = Contents::read(archive.as_mut()).await.map_err(failed)?;
                if *part == DumpPart::Data {
                    let of_picked = |entry: &_| picked.is_row_entry(&contents, entry);
                    ownership.values.append(values_of(&contents, of_picked, &mut strange)?)?;
                }
                let mut source = RowSource::of(name, *part != DumpPart::Data, &contents, &picked)?;
                if source.rows.is_empty() {
                    continue;
                }
                source.takes_from(&mut lacking, &picked);
                // An open stream holds memory for what comes next, so only one is kept open.
                if lacking.is_empty() && sources.is_empty() {
                    source = source.opened(Items::new(contents.take_rest(), archive));
                }
                sources.push(source);
            }
        }
        if let Some(table) = picked.tables.iter().find(|table| lacking.contains(&table.id)) {
            let name = TypedName(&table.schema, &table.name);
            return Err(Error::integrity(format!("the snapshot has no rows of table {name}")));
        }
        // Its names and rows are in the encoding that this entry tells.
        let is_kept = |all: &Contents, entry: &ContentsEntry| {
            picked.entries.contains(&entry.id) || all.get(&entry.kind) == b"ENCODING"
        };
        let contents = contents.with_only(is_kept);
        let otherwise = match self.loading.loads_as {
            LoadsAs::Loader(_) => ORPHANS.to_owned(),
            // It made them, so they are its own.
            LoadsAs::Connected | LoadsAs::Superuser => self.server.query("SELECT current_user").await?,
        };
        let mut known = roles.lock().unwrap_or_else(PoisonError::into_inner);
        let of = Ownership::of(&contents, &mut known, &otherwise)?;
        drop(known);
        ownership.steps = of.steps;
        ownership.anew = of.anew;
        ownership.strange = [of.strange, strange].concat();
        Ok(GraftPlan { contents, picked, sources, ownership, replaced })
    }

    /// The tables that are there already.
    ///
    /// # Errors
    /// There are any, and they are not to be replaced.
    async fn replaced(&self, picked: &Picked) -> Result<Vec<String>> {
        let sought = |one: &PickedRelation| {
            SoughtThing::table(&one.schema, &one.name).ok_or_else(|| {
                Error::usage(format!("the name {} cannot be looked for here", TypedName(&one.schema, &one.name)))
                    .hint("restore the whole database under another name with --rename")
            })
        };
        let tables: Vec<SoughtThing> = picked.tables.iter().map(sought).collect::<Result<_>>()?;
        let found = there(self.server, self.place, &tables).await?;
        let found: Vec<&PickedRelation> =
            picked.tables.iter().zip(found).filter(|(_, found)| *found).map(|(table, _)| table).collect();
        if let Some(table) = found.first().filter(|_| !self.overwrite) {
            return Err(Error::usage(format!("database {} has a table {} already", self.place, TypedName(&table.schema, &table.name)))
                .hint("pass --overwrite to replace it; or restore into another database with --database and --rename, and compare"));
        }
        let is_typed = |one: &&&PickedRelation| {
            self.tables
                .iter()
                .any(|name| (name.schema.as_bytes(), name.name.as_bytes()) == (&one.schema[..], &one.name[..]))
        };
        let typed: Vec<&PickedRelation> = found.iter().filter(is_typed).copied().collect();
        refuse_torn(self.server, self.place, &found, &typed).await?;
        Ok(found.iter().map(|one| String::from_utf8_lossy(&qualified(one)).into_owned()).collect())
    }

    /// Refuses tables that need what is not there.
    async fn refuse_needy(&self, contents: &Contents, picked: &Picked) -> Result<()> {
        refuse_heirs(contents, picked)?;
        let mut direct: BTreeSet<i64> = BTreeSet::new();
        for entry in contents.entries.iter().filter(|entry| picked.entries.contains(&entry.id)) {
            direct.extend(contents.needs(entry).filter(|id| picked.needed.contains(id)));
        }
        let needed: Vec<_> = direct
            .iter()
            .filter_map(|id| contents.by_number(*id))
            .filter(|entry| NEEDED_KINDS.contains(&contents.get(&entry.kind)))
            .filter_map(|entry| Some((contents.name(entry), SoughtThing::of(contents, entry)?)))
            .collect();
        let sought: Vec<SoughtThing> = needed.iter().map(|(_, sought)| sought.clone()).collect();
        let found = there(self.server, self.place, &sought).await?;
        let missing: Vec<&str> =
            needed.iter().zip(found).filter(|(_, found)| !found).map(|((name, _), _)| name.as_str()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing = several(missing);
        Err(Error::usage(format!("database {} lacks what the table needs: {missing}", self.place)).hint(
            "make it there first; or restore into a new database with --database and --rename, which gets it too",
        ))
    }

    /// Lets the role that loads in, and says what it may do.
    async fn let_in(&self, loader: &Loader, plan: &GraftPlan, helper: &str) -> Result<()> {
        let (role, helper) = (quoted(&loader.role), quoted(helper));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let mut sql = vec![
            format!("GRANT CONNECT ON DATABASE {} TO {role}", quoted(self.place)),
            format!("CREATE SCHEMA {helper}"),
            format!("GRANT USAGE ON SCHEMA {helper} TO {role}"),
        ];
        let schemas: BTreeSet<&[u8]> = plan.picked.tables.iter().map(|table| &table.schema[..]).collect();
        sql.extend(
            schemas
                .into_iter()
                .map(|schema| format!("GRANT USAGE, CREATE ON SCHEMA {} TO {role}", text(quoted_name(schema)))),
        );
        for key in plan.picked.foreign_keys.iter().filter(|key| plan.picked.entries.contains(&key.id)) {
            let (schema, name) = (text(quoted_name(&key.to.0)), text(quoted_name(&key.to.1)));
            sql.push(format!(
                "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT REFERENCES ON TABLE {schema}.{name} TO {role}"
            ));
        }
        let look = |more: &str| nothing_else(&plan.picked, &loader.role, loader.verifier(), more);
        let mut bodies = vec![("look", look("")), ("look_before_policies", look(NO_POLICY))];
        if !plan.replaced.is_empty() {
            bodies.push(("replace", format!("BEGIN DROP TABLE {}; END", plan.replaced.join(", "))));
        }
        sql.extend(bodies.into_iter().map(|(name, body)| {
            format!(
                "CREATE FUNCTION {helper}.{name}() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
                    SET search_path = pg_catalog, pg_temp AS {};
                 REVOKE ALL ON FUNCTION {helper}.{name}() FROM PUBLIC;
                 GRANT EXECUTE ON FUNCTION {helper}.{name}() TO {role}",
                literal(&body)
            )
        }));
        let needed = plan.picked.schemas_needed.iter();
        sql.extend(needed.map(|schema| format!("GRANT USAGE ON SCHEMA {} TO {role}", text(quoted_name(schema)))));
        // Not by argv, which has no room for many partitions.
        let step = |sql| Step { needed: true, ..Step::new("the rights of the role that loads".to_owned(), sql) };
        let steps: Vec<Step> = sql.into_iter().map(step).collect();
        self.server.run_steps(self.place, &steps, "UTF8").await.map(drop)
    }

    /// The one transaction.
    async fn transplant(&self, filling: &Filling<'_>, plan: &mut GraftPlan, helper: Option<&str>) -> Result<()> {
        let GraftPlan { contents, sources, replaced, .. } = plan;
        let sources = std::mem::take(sources);
        let mut archive = OwnArchive::in_encoding(&contents.encoding());
        if !replaced.is_empty() {
            let drop = match helper {
                Some(helper) => format!("SELECT {}.replace();\n", quoted(helper)),
                None => format!("DROP TABLE {};\n", replaced.join(", ")),
            };
            archive.add_own("DROP", "of the tables that are replaced", drop);
        }
        let mut numbers = None;
        // Those of the archive, and rights, are written anew.
        let is_ours = |entry: &&ContentsEntry| !matches!(contents.get(&entry.kind), b"ACL" | b"ENCODING");
        // Policies run no code while they are made, and what runs some must have made none.
        let is_last = |entry: &&ContentsEntry| {
            contents.get(&entry.kind) == b"POLICY" || contents.get(&entry.definition).starts_with(b"COMMENT ON POLICY ")
        };
        let ours = || contents.entries.iter().filter(is_ours);
        let mut looked = false;
        for entry in ours().filter(|entry| !is_last(entry)).chain(ours().filter(is_last)) {
            let (kind, definition) = (contents.get(&entry.kind), contents.get(&entry.definition));
            if !is_plain(kind, definition) {
                return Err(Error::integrity(format!("{} is not as pg_dump writes it", contents.name(entry))).hint(
                    "restore the whole database under another name with --rename, and copy the table from there",
                ));
            }
            if is_last(&entry) && !std::mem::replace(&mut looked, true) {
                numbers.get_or_insert_with(|| add_rows(&mut archive, &sources));
                add_look(&mut archive, helper, "look_before_policies");
            }
            if entry.section == POST_DATA {
                numbers.get_or_insert_with(|| add_rows(&mut archive, &sources));
            }
            let (schema, tag) = (contents.get(&entry.schema), contents.get(&entry.tag));
            archive.add(&OwnEntry {
                kind,
                schema,
                tag,
                section: entry.section,
                statement: definition.to_vec(),
                has_rows: false,
            });
        }
        let numbers = numbers.unwrap_or_else(|| add_rows(&mut archive, &sources));
        if !looked {
            add_look(&mut archive, helper, "look_before_policies");
        }
        add_look(&mut archive, helper, "look");
        let list = archive.begin();
        let known = Contents::read(&mut Once(Some(list.clone().into()))).await?;
        let mut rows = GraftedRows::new(list, numbers, self.loading.streams, sources);
        let restore = filling.restore(&["--single-transaction".to_owned()], None);
        filling.run(restore, &mut rows, Arc::new(known), true).await?;
        if rows.has_ended() { Ok(()) } else { Err(Error::source_failed("pg_restore did not read all rows")) }
    }

    /// Shuts the role that loads out again. If it failed, what it was given goes, and nothing that
    /// it has committed: what cuts a load off may come after the transaction's end.
    async fn close(&self, role: &str, helper: &str, failed: bool) -> Result<WhatIsLeft> {
        // Also if the restore was cancelled, or because it was.
        let cx = WorkContext { cancel: CancellationToken::new(), ..self.server.cx.clone() };
        let ask = async |sql: String| query(&self.server.clients, &self.server.connection, self.place, &sql, &cx).await;
        let (name, role, helper) = (literal(role), quoted(role), quoted(helper));
        let sessions = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename =";
        ask(format!("ALTER ROLE {role} NOLOGIN; {sessions} {name}; DROP SCHEMA IF EXISTS {helper} CASCADE")).await?;
        if !failed {
            return Ok(WhatIsLeft::Tables);
        }
        // Only when its sessions have ended is it known what they committed.
        let lives = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = {name}");
        let until = Instant::now() + cx.stall;
        while ask(lives.clone()).await?.trim() != "0" {
            if Instant::now() > until {
                return Err(Error::source_failed("a session of the role that loads does not end"));
            }
            tokio::time::sleep(SESSION_LOOK).await;
        }
        let owns = "SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname =";
        if ask(format!("{owns} {name}")).await?.trim() != "0" {
            return Ok(WhatIsLeft::Tables);
        }
        ask(format!("DROP OWNED BY {role}")).await.map(|_| WhatIsLeft::Nothing)
    }

    /// Gives the tables to their owners, and sequences their values. What the server refuses of
    /// that is told: the rows are there.
    async fn hand_over(&self, filling: &Filling<'_>, plan: GraftPlan) -> Result<Loaded> {
        let GraftPlan { contents, picked, mut ownership, .. } = plan;
        let encoding = contents.encoding();
        let mut refusals = Refusals::default();
        // Whoever may insert must find the right numbers.
        for list in [&ownership.values, &ownership.steps] {
            let mut left = list.steps();
            loop {
                let steps: Vec<Step> = left.by_ref().take(MAX_STEPS).collect();
                if steps.is_empty() {
                    break;
                }
                refusals.take(&steps, self.server.run_all(self.place, &steps, &encoding).await?);
            }
        }
        let mut warnings = Vec::new();
        let mut tell = |what: &str, told: &[String]| {
            if !told.is_empty() {
                warnings.push(format!("database {}: {what}: {}", self.place, several(told.iter().map(String::as_str))));
            }
        };
        tell(LEFT_OUT_REASON, &picked.left_out);
        refusals.anew.append(&mut ownership.anew);
        tell("granted by another role than in the snapshot", &refusals.anew);
        tell("the archive holds what pg_dump does not write; it was not executed", &ownership.strange);
        let failure = |(object, reason): (String, String)| LoadFailure {
            database: filling.database.to_owned(),
            object,
            class: "rights".to_owned(),
            reason,
        };
        Ok(Loaded { warnings, failures: refusals.refused.into_iter().map(failure).collect() })
    }
}

/// Whether rows of a table must be in the snapshot: those of a partitioned table are its
/// partitions', and those of an unlogged one are not on a standby.
fn holds_rows(contents: &Contents, table: &PickedRelation) -> bool {
    let definition = contents.by_number(table.id).map_or(&b""[..], |entry| contents.get(&entry.definition));
    let is_partitioned = definition.windows(14).any(|text| text == b"\nPARTITION BY ");
    !is_partitioned && !definition.starts_with(b"CREATE UNLOGGED ")
}

/// Refuses a table that inherits from one that was not asked for: to inherit, the role that loads
/// would have to own that one.
fn refuse_heirs(contents: &Contents, picked: &Picked) -> Result<()> {
    for table in &picked.tables {
        let Some(entry) = contents.by_number(table.id) else { continue };
        let mut others = contents
            .needs(entry)
            .filter_map(|id| contents.by_number(id))
            .filter(|parent| contents.get(&parent.kind) == b"TABLE" && !picked.entries.contains(&parent.id));
        let inherits = contents.get(&entry.definition).windows(11).any(|text| text == b"\nINHERITS (");
        if let Some(parent) = others.next().filter(|_| inherits) {
            let parent = TypedName(contents.get(&parent.schema), contents.get(&parent.tag));
            let name = TypedName(&table.schema, &table.name);
            return Err(Error::usage(format!("the table {name} inherits from {parent}"))
                .hint("name both with --table; or restore into a new database with --database and --rename"));
        }
    }
    Ok(())
}

/// Adds the statements that load rows, in the order of `sources`. Returns their numbers.
fn add_rows(archive: &mut OwnArchive, sources: &[RowSource]) -> Vec<u32> {
    let rows = sources.iter().flat_map(|source| &source.rows);
    rows.map(|rows| {
        let copy = copy_into(&rows.schema, &rows.table, &rows.columns);
        archive.add_rows(&rows.schema, &rows.table, copy)
    })
    .collect()
}
