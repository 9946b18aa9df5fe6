//! The order in which a role of its own loads an archive, and what it may do at each step.
//!
//! Code of a dump may run when rows are loaded and indexes are built: functions of checks, domains,
//! generated columns, indexes. It runs as the role that loads, to whom all belongs for now. So as
//! long as rows come, that role cannot read a table or touch a sequence, and [`super::guard`] lets
//! code change nothing.
//!
//! Foreign keys and materialised views of superusers are made while that role reads tables. Then
//! code may read them too: what the planner or `ANALYZE` calls, which autovacuum runs at any time.
//! So nothing is there yet in which it could keep what it read: the guard stands, sequences cannot
//! be changed, there are no large objects but the keeper's, and what the server found out about the
//! values of functions is forgotten. Sequences get their values last, from the superuser, by
//! statements that are written anew. The other materialised views are filled once their owners
//! have them.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use lifeboat_base::{Class, Context, Error, Result};
use tempfile::NamedTempFile;

use super::builds::EntryId;
use super::contents::{Contents, Resumed, Section};
use super::fill::Filling;
use super::late::{FOREIGN_KEY, LATE_KINDS, Late, TABLE_ROWS, VIEW_ROWS, Views, chosen};
use super::loader::{Loader, Rights};
use super::needs::AS_SUPERUSER;
use super::ownership::without_owners;
use super::parts::DumpPart;
use super::sql::{quoted_name, quoted_text, rows as rows_of};
use super::step_list::StepList;
use super::steps::{MAX_STEPS, Step};
use super::values::{SEQUENCE_VALUE, is_of_large_object};
use crate::streams::StreamReader;
use crate::wanted::LoadFailure;

/// Casts by which a foreign key would run a function of the dump.
const CASTS: &str = "SELECT castsource::regtype || ' AS ' || casttarget::regtype FROM pg_cast c
    WHERE castcontext = 'i' AND oid >= 16384 AND castfunc >= 16384 AND NOT EXISTS (
        SELECT FROM pg_depend e WHERE e.classid = 'pg_cast'::regclass AND e.objid = c.oid AND e.deptype = 'e')";
impl Filling<'_> {
    /// Loads a snapshot's database as `loader`. `archive` is the first stream, whose list was read.
    /// Returns the materialised views, which are not filled yet.
    ///
    /// # Errors
    /// Those of a stream, of the server, or of `pg_restore`; or code did what it may not.
    pub(super) async fn load_in_phases(
        &self,
        loader: &Loader,
        parts: &[(DumpPart, &str)],
        contents: Contents,
        mut archive: Box<dyn StreamReader>,
    ) -> Result<Views> {
        let Some(((first, name), rows)) = parts.split_first() else { return Ok(Views::default()) };
        let (contents, definitions, rows) = if *first == DumpPart::Whole {
            let file = self.file(&self.adapted(&contents)?)?;
            (Arc::new(contents), file, parts)
        } else {
            let (contents, file) = self.definitions(name, contents, archive.as_mut()).await?;
            (contents, file, rows)
        };
        drop(archive);
        self.load_file(&definitions, &contents, &["--section=pre-data".to_owned()]).await?;
        let late = chosen(&contents, Section::PostData, |kind| LATE_KINDS.contains(&kind));
        let late = self.without_casts(&contents, late).await?;

        loader.may(self.server, self.place, Rights::Fill).await?;
        let later = |kind: &[u8]| LATE_KINDS.contains(&kind) || kind == VIEW_ROWS;
        let entries = chosen(&contents, Section::PostData, later).into_iter().collect();
        let others = chosen(&contents, Section::PostData, |kind| !later(kind));
        self.load_rows(rows, &definitions, &contents, Some(&Late { entries, others })).await?;
        loader.pause(self.server, self.place).await?;

        loader.may(self.server, self.place, Rights::Read).await?;
        self.build(&definitions, &contents, Some(late), &[]).await?;
        loader.check(self.server, self.place).await?;

        let keeper = self.as_another(loader.keeper(self.server)?);
        for (part, name) in parts {
            if part.creates() || *part == DumpPart::Data {
                self.load_large_objects(&keeper, part, name).await?;
            }
        }
        self.views(&contents).await
    }

    /// Ends what `loader` does, then fills the materialised views of superusers, each by one of
    /// `steps`. They belong to the role that loads, and it cannot log in any more.
    ///
    /// # Errors
    /// One cannot be filled; or code of the dump did what it may not.
    pub(super) async fn end(&self, loader: &Loader, steps: &[Step], values: &StepList, encoding: &str) -> Result<()> {
        loader.close(self.server, self.place).await?;
        if !steps.is_empty() {
            // They may read sequences. What is not set is told when all are set again.
            self.run_steps_of(values, encoding, |_, _| Ok(())).await?;
            self.fill_views(steps, encoding).await?;
            loader.check(self.server, self.place).await?;
        }
        loader.may(self.server, self.place, Rights::All).await
    }

    /// Sets sequences.
    ///
    /// # Errors
    /// One cannot be set, unless to go on is wanted.
    pub(super) async fn set_sequences(&self, values: &StepList, encoding: &str) -> Result<()> {
        self.run_steps_of(values, encoding, |what, reason| self.failed(what, reason)).await
    }

    /// Runs many steps, some at a time. `failed` gets what failed, and why.
    async fn run_steps_of(
        &self,
        list: &StepList,
        encoding: &str,
        failed: impl Fn(&str, &str) -> Result<()>,
    ) -> Result<()> {
        let mut left = list.steps();
        loop {
            let steps: Vec<Step> = left.by_ref().take(MAX_STEPS).collect();
            if steps.is_empty() {
                return Ok(());
            }
            for failure in self.server.run_steps(self.place, &steps, encoding).await? {
                failed(steps.get(failure.step).map_or("", |step| &step.what), &failure.reason)?;
            }
        }
    }

    /// Lists what could not be loaded.
    ///
    /// # Errors
    /// To go on is not wanted.
    fn failed(&self, what: &str, reason: &str) -> Result<()> {
        self.failures.add(LoadFailure {
            database: self.database.to_owned(),
            object: what.to_owned(),
            class: "other".to_owned(),
            reason: reason.to_owned(),
        });
        if self.keep_going { Ok(()) } else { Err(Error::source_failed(format!("{what} cannot be loaded: {reason}"))) }
    }

    /// Fills materialised views. Each of `steps` does so for one, as its owner.
    ///
    /// # Errors
    /// One cannot be filled, unless to go on is wanted.
    pub(super) async fn fill_views(&self, steps: &[Step], encoding: &str) -> Result<()> {
        for step in steps {
            // Each in a session of its own: code that one runs leaves nothing to the next.
            for failure in self.server.run_steps(self.place, std::slice::from_ref(step), encoding).await? {
                self.failed(&step.what, &failure.reason).map_err(|error| {
                    error
                        .within("a materialised view is filled as its owner")
                        .hint(format!("give its owner the rights; or, {AS_SUPERUSER}"))
                })?;
            }
        }
        Ok(())
    }

    /// Loads the chosen entries of an archive, of which the list was read, as the role that loads.
    pub(super) async fn load_chosen(
        &self,
        name: &str,
        mut contents: Contents,
        archive: &mut dyn StreamReader,
        wanted: &[EntryId],
    ) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let list = self.list(wanted)?;
        let pieces = vec![without_owners(&contents), contents.take_rest()];
        let arguments = [format!("--use-list={}", list.path().display())];
        self.load_pieces(name, contents, Resumed { pieces, archive }, &arguments, true).await
    }

    /// Loads large objects, and what else of the data is no rows of tables, as the keeper.
    async fn load_large_objects(&self, keeper: &Filling<'_>, part: &DumpPart, name: &str) -> Result<()> {
        let mut archive = self.streams.open(name).await?;
        let contents = self.contents(name, archive.as_mut()).await?;
        if *part == DumpPart::Data {
            // It tells the values of sequences, and may tell the owners of large objects.
            self.adapted(&contents)?;
        }
        let of_data = |kind: &[u8]| kind != TABLE_ROWS && kind != SEQUENCE_VALUE.as_bytes();
        let data: BTreeSet<EntryId> = chosen(&contents, Section::Data, of_data).into_iter().collect();
        let entries = contents.entries.iter().filter_map(|entry| Some((entry, entry.number()?)));
        let wanted = entries.filter(|(entry, id)| data.contains(id) || is_of_large_object(&contents, entry));
        let wanted: Vec<EntryId> = wanted.map(|(_, id)| id).collect();
        keeper.load_chosen(name, contents, archive.as_mut(), &wanted).await
    }

    /// How the materialised views of an archive are filled.
    async fn views(&self, contents: &Contents) -> Result<Views> {
        let owners = contents.of_section(Section::PostData).filter(|entry| contents.get(&entry.kind) == VIEW_ROWS);
        let superusers = self.superusers(owners.map(|entry| contents.get(&entry.owner)), &contents.encoding()).await?;
        let mut views = Views::default();
        for entry in contents.of_section(Section::PostData).filter(|entry| contents.get(&entry.kind) == VIEW_ROWS) {
            let owner = contents.get(&entry.owner);
            let name =
                [&quoted_name(contents.get(&entry.schema))[..], b".", &quoted_name(contents.get(&entry.tag))].concat();
            // The server runs it as the owner, who cannot become another meanwhile. A policy that
            // would leave rows out is an error.
            let body = [
                b"BEGIN IF (SELECT r.rolsuper FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = ",
                &quoted_text(&name)[..],
                b"::regclass) THEN RAISE EXCEPTION 'a superuser owns it'; END IF;
                SET LOCAL row_security = off; REFRESH MATERIALIZED VIEW ",
                &name,
                b"; END",
            ]
            .concat();
            let step = Step::new(contents.name(entry), [b"DO ", &quoted_text(&body)[..]].concat());
            if superusers.contains(owner) { views.of_superusers.push(step) } else { views.of_others.push(step) }
        }
        Ok(views)
    }

    /// Those of `names` that are superusers. The server knows: the names may be in any encoding.
    async fn superusers<'n>(
        &self,
        names: impl Iterator<Item = &'n [u8]>,
        encoding: &str,
    ) -> Result<BTreeSet<&'n [u8]>> {
        let names: Vec<&[u8]> = names.collect::<BTreeSet<_>>().into_iter().collect();
        let step = |name: &&[u8]| {
            let body = [
                b"BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolsuper AND rolname = ",
                &quoted_text(name)[..],
                b") THEN RAISE 'no superuser'; END IF; END",
            ];
            Step::new(String::new(), [b"DO ", &quoted_text(&body.concat())[..]].concat())
        };
        let steps: Vec<Step> = names.iter().map(step).collect();
        let others: Vec<usize> =
            self.server.run_steps(self.place, &steps, encoding).await?.iter().map(|other| other.step).collect();
        Ok(names.into_iter().enumerate().filter(|(at, _)| !others.contains(at)).map(|(_, name)| name).collect())
    }

    /// Leaves foreign keys out beside casts that run code of the dump.
    ///
    /// # Errors
    /// There are such, and to go on is not wanted.
    async fn without_casts(&self, contents: &Contents, late: Vec<EntryId>) -> Result<Vec<EntryId>> {
        if contents.of_kind(FOREIGN_KEY).next().is_none() {
            return Ok(late);
        }
        let casts = rows_of(&self.server.query_in(self.place, CASTS).await?);
        let Some(cast) = casts.first() else { return Ok(late) };
        let reason = format!(
            "it may run the function of the implicit cast {cast}, while the role that loads can read all tables"
        );
        if !self.keep_going {
            return Err(Error::usage(format!("there is a foreign key: {reason}")).hint(AS_SUPERUSER));
        }
        let keys = chosen(contents, Section::PostData, |kind| kind == FOREIGN_KEY.as_bytes());
        for key in contents.of_kind(FOREIGN_KEY) {
            self.failed(&contents.name(key), &reason)?;
        }
        Ok(late.into_iter().filter(|entry| !keys.contains(entry)).collect())
    }

    /// The numbers of entries, as `pg_restore` takes them.
    pub(super) fn list(&self, entries: &[EntryId]) -> Result<NamedTempFile> {
        let lines: String = entries.iter().map(|entry| format!("{entry};\n")).collect();
        self.file(lines.as_bytes())
    }

    fn file(&self, bytes: &[u8]) -> Result<NamedTempFile> {
        let failed = || format!("cannot write to {}", self.server.cx.scratch.display());
        let mut file = NamedTempFile::new_in(&self.server.cx.scratch).context(Class::Storage, failed)?;
        file.write_all(bytes).context(Class::Storage, failed)?;
        Ok(file)
    }
}
