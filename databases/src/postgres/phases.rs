//! The order in which a role of its own loads an archive, and what it may do at each step.
//!
//! Code of a dump may run when rows are loaded and indexes are built: functions of checks, domains,
//! generated columns, indexes. It runs as the role that loads, to whom all belongs for now. So as
//! long as it may run, that role cannot read a table or touch a sequence, and [`super::guard`] lets
//! code change nothing. Only what runs no code of the dump comes after: values of sequences, large
//! objects, foreign keys, policies. Materialised views are code too, which PostgreSQL runs as their
//! owners. Those of superusers are filled while the role that loads owns them and cannot log in any
//! more, the others once their owners have them.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use lifeboat_base::{Class, Context, Error, Result};
use tempfile::NamedTempFile;

use super::builds::EntryId;
use super::contents::{Contents, Resumed, Section};
use super::fill::Filling;
use super::late::{LATE_KINDS, Late, TABLE_ROWS, VIEW_ROWS, Views, chosen};
use super::loader::{Loader, Rights};
use super::needs::AS_SUPERUSER;
use super::ownership::without_owners;
use super::parts::DumpPart;
use super::sql::{quoted_name, quoted_text, rows as rows_of};
use super::steps::Step;
use crate::database::LoadFailure;
use crate::streams::StreamReader;

/// Casts by which a foreign key would run a function of the dump.
const CASTS: &str = "SELECT castsource::regtype || ' AS ' || casttarget::regtype FROM pg_cast c
    WHERE castcontext = 'i' AND oid >= 16384 AND castfunc >= 16384 AND NOT EXISTS (
        SELECT FROM pg_depend e WHERE e.classid = 'pg_cast'::regclass AND e.objid = c.oid AND e.deptype = 'e')";
/// Differs if any large object does.
const LARGE_OBJECTS: &str = "SELECT (SELECT coalesce(sum(oid::bigint), 0) || ' ' || count(*) FROM pg_largeobject_metadata), (SELECT
    coalesce(sum(('x' || substr(md5(loid || ':' || pageno || ':' || md5(data)), 1, 15))::bit(60)::bigint), 0) FROM pg_largeobject)";

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
        let views = chosen(&contents, Section::PostData, |kind| kind == VIEW_ROWS);
        self.refuse_casts(&contents).await?;

        loader.may(self.server, self.place, Rights::Fill).await?;
        let large_objects = self.large_objects().await?;
        let entries: BTreeSet<EntryId> = late.iter().chain(&views).copied().collect();
        let others = chosen(&contents, Section::PostData, |kind| !LATE_KINDS.contains(&kind) && kind != VIEW_ROWS);
        self.load_rows(rows, &definitions, &contents, Some(&Late { entries, others })).await?;
        self.check(loader, &large_objects).await?;

        loader.may(self.server, self.place, Rights::All).await?;
        for (part, name) in rows {
            if matches!(part, DumpPart::Whole | DumpPart::Data) {
                self.load_other_data(part, name).await?;
            }
        }
        self.build(&definitions, &contents, Some(late), &[]).await?;

        self.views(&contents).await
    }

    /// Ends what `loader` does, then fills the materialised views of superusers, each by one of
    /// `steps`. They belong to the role that loads, and it cannot log in any more.
    ///
    /// # Errors
    /// One cannot be filled; or code of the dump did what it may not.
    pub(super) async fn end(&self, loader: &Loader, steps: &[Step], encoding: &str) -> Result<()> {
        loader.close(self.server, self.place).await?;
        if !steps.is_empty() {
            loader.may(self.server, self.place, Rights::Read).await?;
            let large_objects = self.large_objects().await?;
            self.fill_views(steps, encoding).await?;
            self.check(loader, &large_objects).await?;
            loader.may(self.server, self.place, Rights::All).await?;
        }
        loader.unguard(self.server, self.place).await
    }

    /// Fills materialised views. Each of `steps` does so for one, as its owner.
    ///
    /// # Errors
    /// One cannot be filled, unless to go on is wanted.
    pub(super) async fn fill_views(&self, steps: &[Step], encoding: &str) -> Result<()> {
        for step in steps {
            // Each in a session of its own: code that one runs leaves nothing to the next.
            for failure in self.server.run_steps(self.place, std::slice::from_ref(step), encoding).await? {
                self.failures.add(LoadFailure {
                    database: self.database.to_owned(),
                    object: step.what.clone(),
                    class: "other".to_owned(),
                    reason: failure.reason.clone(),
                });
                if !self.keep_going {
                    let error = format!("{} cannot be loaded as its owner: {}", step.what, failure.reason);
                    return Err(
                        Error::source_failed(error).hint(format!("give its owner the rights; or, {AS_SUPERUSER}"))
                    );
                }
            }
        }
        Ok(())
    }

    /// Loads the chosen entries of an archive, of which the list was read.
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

    /// Values of sequences, and large objects.
    async fn load_other_data(&self, part: &DumpPart, name: &str) -> Result<()> {
        let mut archive = self.streams.open(name).await?;
        let contents =
            Contents::read(archive.as_mut()).await.map_err(|error| error.within(format!("cannot load {name}")))?;
        let wanted = chosen(&contents, Section::Data, |kind| kind != TABLE_ROWS);
        if *part == DumpPart::Data {
            // It may tell the owners of large objects.
            self.adapted(&contents)?;
        }
        if contents.of_section(Section::Data).any(|entry| contents.get(&entry.kind) == b"BLOBS") {
            return self.load_chosen(name, contents, archive.as_mut(), &wanted).await;
        }
        let file = self.file(&without_owners(&contents))?;
        drop(archive);
        self.build(&file, &Arc::new(contents), Some(wanted), &[]).await
    }

    /// How the materialised views of an archive are filled.
    async fn views(&self, contents: &Contents) -> Result<Views> {
        let superusers = rows_of(&self.server.query("SELECT rolname FROM pg_roles WHERE rolsuper").await?);
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
            let of_superuser = superusers.iter().any(|name| name.as_bytes() == owner);
            if of_superuser { views.of_superusers.push(step) } else { views.of_others.push(step) }
        }
        Ok(views)
    }

    /// Refuses foreign keys beside casts that run code of the dump.
    async fn refuse_casts(&self, contents: &Contents) -> Result<()> {
        if contents.of_kind("FK CONSTRAINT").next().is_none() {
            return Ok(());
        }
        match rows_of(&self.server.query_in(self.place, CASTS).await?).first() {
            None => Ok(()),
            Some(cast) => Err(Error::usage(format!(
                "a foreign key may run the function of the implicit cast {cast}, while the role that loads can read all tables"
            ))
            .hint(AS_SUPERUSER)),
        }
    }

    async fn check(&self, loader: &Loader, large_objects: &str) -> Result<()> {
        loader.check(self.server, self.place).await?;
        if self.large_objects().await? == large_objects {
            return Ok(());
        }
        Err(Error::source_failed("code of the snapshot changed large objects while it was loaded")
            .hint("what was loaded is dropped; look for lo_put and lo_create in the functions of the snapshot"))
    }

    async fn large_objects(&self) -> Result<String> {
        self.server.query_in(self.place, LARGE_OBJECTS).await
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
