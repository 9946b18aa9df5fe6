//! Fills a new database with the parts of a snapshot: definitions, rows, then what is built on the
//! rows.
//!
//! Each part goes through `pg_restore`. Either the first error ends the work, or it goes on, and
//! what could not be loaded is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, TryFutureExt};
use lifeboat_base::{Class, Context, Error, Result};
use tempfile::NamedTempFile;

use super::archive::LongBlocks;
use super::builds::{Builds, EntryId};
use super::contents::{Contents, Resumed};
use super::creation::Creation;
use super::extract::{Chosen, LEFT_OUT_REASON, Request};
use super::failures::{Failures, Heard, Listener};
use super::late::{Late, Views, table_rows};
use super::loader::LoadsAs;
use super::needs::{code, needs_superuser, refusal};
use super::orphans::ORPHANS;
use super::owners::KnownRoles;
use super::ownership::Ownership;
use super::parts::{DumpPart, TableName};
use super::refusals::Refusals;
use super::roles::several;
use super::server::Server;
use super::values::{values, without_large_objects};
use crate::streams::{Once, StoredStreams, StreamReader};
use crate::tool::process::{Invocation, feed_head, feed_with, output_bytes};

/// Never ask for a password. Tablespaces name directories of another machine. Only a verbose
/// `pg_restore` says at which entry it fails.
const USUAL: [&str; 3] = ["-w", "--verbose", "--no-tablespaces"];

/// A step of loading that is done.
enum Done<'a> {
    Rows(&'a DumpPart),
    Built(EntryId),
}

/// The work of filling one database.
pub(crate) struct Filling<'a> {
    pub(crate) server: &'a Server<'a>,
    pub(crate) streams: &'a dyn StoredStreams,
    /// The database of the snapshot.
    pub(crate) database: &'a str,
    /// The database that is filled.
    pub(crate) place: &'a str,
    /// Whether to go on after errors.
    pub(crate) keep_going: bool,
    pub(crate) roles: &'a Mutex<KnownRoles>,
    pub(crate) failures: Failures,
    /// Whether the database was made here.
    pub(crate) made: AtomicBool,
    pub(crate) loads_as: LoadsAs<'a>,
    /// The server as the role that loads reaches it, if that is another than ours.
    pub(crate) as_loader: Option<Server<'a>>,
    /// What is to be done once all is loaded.
    pub(crate) ownership: Mutex<Ownership>,
    /// What of the database is wanted.
    pub(crate) chosen: &'a Chosen<'a>,
}

impl<'a> Filling<'a> {
    /// The same work, done by another role, which reaches the server so.
    pub(super) fn as_another(&self, role: Server<'a>) -> Self {
        Self {
            as_loader: Some(role),
            failures: self.failures.clone(),
            made: AtomicBool::new(true),
            ownership: Mutex::default(),
            ..*self
        }
    }
}

impl Filling<'_> {
    /// Makes the database and loads all `parts` into it. Returns what an operator should know.
    ///
    /// # Errors
    /// Those of a stream, of the server, or of `pg_restore`.
    pub(crate) async fn fill(&self, parts: &[(DumpPart, &str)]) -> Result<Vec<String>> {
        let Some(((first, name), rows)) = parts.split_first().filter(|((part, _), _)| part.creates()) else {
            return Err(Error::integrity(format!("the snapshot has no definitions of database {}", self.database)));
        };
        let has_rows = *first == DumpPart::Whole || rows.iter().any(|(part, _)| *part == DumpPart::Data);
        if !has_rows && self.chosen.request != Request::Definitions {
            return Err(Error::integrity(format!("the snapshot lacks rows of database {}", self.database)));
        }
        let mut archive = self.streams.open(name).await?;
        let contents =
            Contents::read(archive.as_mut()).await.map_err(|error| error.within(format!("cannot load {name}")))?;
        let contents = self.chosen.of_definitions(contents, self.database)?;
        let parts = &self.chosen.parts(parts)[..];
        let rows = parts.get(1..).unwrap_or_default();
        let (creation, encoding) = (self.creation(&contents), contents.encoding());
        if let LoadsAs::Loader(..) = self.loads_as
            && !self.keep_going
        {
            let needed = needs_superuser(self.server, &contents).await?;
            if !needed.is_empty() {
                return Err(refusal(&needed));
            }
        }
        let code = code(&contents);
        let failed = |error: Error| error.within(format!("cannot create database {}", self.place));
        creation.make(self.server, self.place).await.map_err(failed)?;
        self.made.store(true, Ordering::Relaxed);
        let mut refused = creation.begin(self.server, self.place).await.map_err(failed)?;
        if let LoadsAs::Loader(loader) = self.loads_as {
            loader.take(self.server, self.place, &encoding).await?;
        }
        let mut views = Views::default();
        if let LoadsAs::Loader(loader) = self.loads_as {
            views = self.load_in_phases(loader, parts, contents, archive).await?;
        } else if *first == DumpPart::Whole {
            self.load_archive(name, contents, archive.as_mut(), &[]).await?;
        } else {
            let (contents, definitions) = self.definitions(name, contents, archive.as_mut()).await?;
            drop(archive);
            self.load_file(&definitions, &contents, &["--section=pre-data".to_owned()]).await?;
            self.load_rows(rows, &definitions, &contents, None).await?;
        }
        let mut refusals = Refusals::default();
        let Ownership { mut strange, of_server, .. } = self.settle_owners(&views, &encoding, &mut refusals).await?;
        self.fill_views(&views.of_others, &encoding).await?;
        let shut = matches!(self.loads_as, LoadsAs::Loader(_));
        let also = creation.complete(self.server, self.place, shut, &mut refusals).await?;
        refused.extend(also.into_iter().filter(|one| !refused.contains(one)).collect::<Vec<_>>());
        self.tell_refused(refusals.refused)?;
        strange.extend(creation.strange);
        let mut warnings = Vec::new();
        let told = self.chosen.without_rows()?.into_iter();
        warnings.extend(told.map(|told| format!("database {}: {told}", self.database)));
        if !self.chosen.left_out().is_empty() {
            let left_out = several(self.chosen.left_out().iter().map(String::as_str));
            warnings.push(format!("database {}: {LEFT_OUT_REASON}: {left_out}", self.database));
        }
        if let LoadsAs::Superuser = self.loads_as
            && !code.is_empty()
        {
            let code = several(code.iter().map(String::as_str));
            warnings.push(format!(
                "database {}: this code of the snapshot could run as the superuser: {code}",
                self.database
            ));
        }
        if !refused.is_empty() {
            warnings.push(format!(
                "database {}: the server refused: {}",
                self.database,
                several(refused.iter().map(String::as_str))
            ));
        }
        if !refusals.anew.is_empty() {
            warnings.push(format!(
                "database {}: granted by another role than in the snapshot, whose grantor is lacking or may not grant here: {}",
                self.database,
                several(refusals.anew.iter().map(String::as_str))
            ));
        }
        if !of_server.is_empty() {
            warnings.push(format!(
                "database {}: owners and rights of the server's own objects were left out; set them by hand: {}",
                self.database,
                several(of_server.iter().map(String::as_str))
            ));
        }
        if !strange.is_empty() {
            warnings.push(format!(
                "database {}: the archive holds what pg_dump does not write about databases and rights; it was not executed: {}",
                self.database,
                several(strange.iter().map(String::as_str))
            ));
        }
        Ok(warnings)
    }

    /// Where `pg_restore` connects to.
    fn into(&self) -> [String; 2] {
        ["-d".to_owned(), self.as_loader.as_ref().unwrap_or(self.server).connection.conninfo(self.place)]
    }

    /// The beginning of an archive as it suits the server.
    ///
    /// # Errors
    /// It asks for more owners and rights than fit into memory.
    pub(super) fn adapted(&self, contents: &Contents) -> Result<Vec<u8>> {
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        let LoadsAs::Loader(_) = self.loads_as else { return Ok(roles.adapt(contents)) };
        let ownership = Ownership::of(contents, &mut roles, ORPHANS)?;
        let mut all = self.ownership.lock().unwrap_or_else(PoisonError::into_inner);
        all.steps.append(ownership.steps)?;
        let values = values(contents, &mut all.strange)?;
        all.values.append(values)?;
        all.anew.extend(ownership.anew);
        all.strange.extend(ownership.strange);
        all.of_server.extend(ownership.of_server);
        Ok(without_large_objects(contents))
    }

    /// How the database is made. What is of roles that are lacking is left out.
    fn creation(&self, contents: &Contents) -> Creation {
        let mut creation = Creation::of(contents);
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        let comparable = contents.is_comparable();
        creation.leave_out(|role| roles.lacks(role, comparable));
        creation
    }

    /// Writes the definitions to a file: `pg_restore` reads them more than once, and works over
    /// several connections only if it can seek. They are small, as they hold no rows.
    pub(super) async fn definitions(
        &self,
        name: &str,
        mut contents: Contents,
        archive: &mut dyn StreamReader,
    ) -> Result<(Arc<Contents>, NamedTempFile)> {
        let failed = || format!("cannot write {name} to {}", self.server.cx.scratch.display());
        let mut file = NamedTempFile::new_in(&self.server.cx.scratch).context(Class::Storage, failed)?;
        let pieces = vec![self.adapted(&contents)?, contents.take_rest()];
        let mut archive = Resumed { pieces, archive };
        while let Some(piece) = archive.next().await? {
            file.write_all(&piece).context(Class::Storage, failed)?;
        }
        Ok((Arc::new(contents), file))
    }

    /// Loads rows over several connections, and builds indexes and constraints as soon as their
    /// rows are there. What the longest chain waits for comes first. What is `late` is left out.
    pub(super) async fn load_rows(
        &self,
        rows: &[(DumpPart, &str)],
        definitions: &NamedTempFile,
        contents: &Arc<Contents>,
        late: Option<&Late>,
    ) -> Result<()> {
        let length = |stream: &str| self.streams.length(stream).unwrap_or_default();
        let table = |(part, stream): &(DumpPart, &str)| match part {
            DumpPart::Table(name) => Some((name.clone(), length(stream))),
            _ => None,
        };
        let lengths: BTreeMap<TableName, u64> = rows.iter().filter_map(table).collect();
        // Without the lists everything is built at the end.
        let (list, upon_rows) = self.lists(definitions).await.unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "indexes are built only after all rows");
            Default::default()
        });
        let nothing = BTreeSet::new();
        let mut builds = Builds::new(&list, &upon_rows, &lengths, late.map_or(&nothing, |late| &late.entries));
        let urgency = |(part, stream): &(DumpPart, &str)| {
            let upon = if let DumpPart::Table(name) = part { builds.upon(name) } else { 0 };
            length(stream) + upon
        };
        let mut rows: Vec<(u64, &(DumpPart, &str))> = rows.iter().map(|rows| (urgency(rows), rows)).collect();
        rows.sort_by_key(|(urgency, _)| *urgency);
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < self.server.cx.jobs.max(1) {
                let others = rows.last().map_or(0, |(urgency, _)| *urgency);
                if let Some(entry) = builds.next(others) {
                    let build = self.build(definitions, contents, Some(vec![entry]), &[]);
                    running.push(build.map_ok(move |()| Done::Built(entry)).boxed());
                } else if let Some((_, (part, name))) = rows.pop() {
                    let load = self.load_stream(name);
                    running.push(load.map_ok(move |()| Done::Rows(part)).boxed());
                } else {
                    break;
                }
            }
            match running.next().await.transpose()? {
                Some(Done::Rows(DumpPart::Table(name))) => builds.loaded(name),
                Some(Done::Rows(_)) => {}
                Some(Done::Built(entry)) => builds.built(entry),
                None => break,
            }
        }
        drop(running);
        let jobs = [format!("--jobs={}", self.server.cx.jobs)];
        match builds.rest() {
            Some(rest) => {
                self.build(definitions, contents, Some(rest.side_by_side), &jobs).await?;
                self.build(definitions, contents, Some(rest.in_order), &[]).await
            }
            None => self.build(definitions, contents, late.map(|late| late.others.clone()), &jobs).await,
        }
    }

    async fn load_stream(&self, name: &str) -> Result<()> {
        let mut archive = self.streams.open(name).await?;
        let contents = self.contents(name, archive.as_mut()).await?;
        if let LoadsAs::Loader(_) = self.loads_as {
            let wanted = table_rows(&contents);
            return self.load_chosen(name, contents, archive.as_mut(), &wanted).await;
        }
        self.load_archive(name, contents, archive.as_mut(), &[]).await
    }

    /// What is wanted of an archive of rows.
    pub(super) async fn contents(&self, name: &str, archive: &mut dyn StreamReader) -> Result<Contents> {
        let contents = Contents::read(archive).await.map_err(|error| error.within(format!("cannot load {name}")))?;
        Ok(self.chosen.of_part(contents, DumpPart::of_stream(name).as_ref().map(|(part, _)| part)))
    }

    async fn load_archive(
        &self,
        name: &str,
        mut contents: Contents,
        archive: &mut dyn StreamReader,
        arguments: &[String],
    ) -> Result<()> {
        let pieces = vec![self.adapted(&contents)?, contents.take_rest()];
        self.load_pieces(name, contents, Resumed { pieces, archive }, arguments, self.chosen.is_part()).await
    }

    /// Loads an archive of which the list was read; `partly` if not all of it is wanted.
    pub(super) async fn load_pieces(
        &self,
        name: &str,
        contents: Contents,
        mut archive: Resumed<'_>,
        arguments: &[String],
        partly: bool,
    ) -> Result<()> {
        let (restore, contents) = (self.restore(arguments, None), Arc::new(contents));
        let loaded = match DumpPart::of_stream(name) {
            Some((DumpPart::Table(_), _)) => {
                self.run(restore, &mut LongBlocks::new(&mut archive), contents, partly).await
            }
            _ => self.run(restore, &mut archive, contents, partly).await,
        };
        loaded.map_err(|error| error.within(format!("cannot load {name}")))
    }

    pub(super) async fn load_file(
        &self,
        file: &NamedTempFile,
        contents: &Arc<Contents>,
        arguments: &[String],
    ) -> Result<()> {
        self.run(self.restore(arguments, Some(file)), &mut Once(None), contents.clone(), false).await
    }

    pub(super) fn restore(&self, arguments: &[String], file: Option<&NamedTempFile>) -> Invocation {
        let strict = (!self.keep_going).then_some("--exit-on-error");
        let into = self.into();
        let arguments =
            USUAL.into_iter().chain(strict).map(OsStr::new).chain(into.iter().chain(arguments).map(OsStr::new));
        self.as_loader
            .as_ref()
            .unwrap_or(self.server)
            .tool("pg_restore", arguments.chain(file.map(|file| file.path().as_os_str())))
    }

    pub(super) async fn run(
        &self,
        restore: Invocation,
        archive: &mut dyn StreamReader,
        contents: Arc<Contents>,
        partly: bool,
    ) -> Result<()> {
        let (mut listener, heard): (Listener, Heard) = Listener::new(&self.failures, self.database, Some(contents));
        let expected: &[i32] = if self.keep_going { &[0, 1] } else { &[0] };
        let restore = restore.watched(move |piece| listener.hear(piece));
        let fed = if partly {
            feed_head(restore, archive, |_| Ok(()), expected).await
        } else {
            feed_with(restore, archive, |_| Ok(()), expected).await
        };
        match fed {
            Ok(0) => Ok(()),
            Ok(_) if heard.went_on() => Ok(()),
            Ok(status) => {
                Err(heard.explain(Error::source_failed(format!("pg_restore ended early, with status {status}"))))
            }
            Err(error) => Err(heard.explain(error)),
        }
    }

    /// Two lists: of everything in the definitions, with what each entry needs, and of what comes
    /// after the rows. Names are in the encoding of the database. Names that are not UTF-8 are not
    /// understood, which does no harm.
    async fn lists(&self, file: &NamedTempFile) -> Result<(String, String)> {
        let list = async |how: &str| {
            let arguments = [OsStr::new("--list"), OsStr::new(how), file.path().as_os_str()];
            let list = output_bytes(self.server.tool("pg_restore", arguments)).await?;
            Ok::<_, Error>(String::from_utf8_lossy(&list).into_owned())
        };
        Ok((list("--verbose").await?, list("--section=post-data").await?))
    }

    /// Builds indexes, constraints and whatever else comes after the rows. `entries` are their
    /// numbers in the archive; `None` for all of it.
    pub(super) async fn build(
        &self,
        definitions: &NamedTempFile,
        contents: &Arc<Contents>,
        entries: Option<Vec<EntryId>>,
        how: &[String],
    ) -> Result<()> {
        // A list or a section, but not both: with a list, `pg_restore` would take a comment for
        // that of the entry before it.
        let list = match entries {
            Some(entries) if entries.is_empty() => return Ok(()),
            Some(entries) => Some(self.list(&entries)?),
            None => None,
        };
        let chosen = list
            .as_ref()
            .map_or("--section=post-data".to_owned(), |list| format!("--use-list={}", list.path().display()));
        let built = self.load_file(definitions, contents, &[how, &[chosen]].concat()).await;
        built.map_err(|error| error.within("cannot build indexes and constraints"))
    }
}
