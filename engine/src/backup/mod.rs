//! Backup: source → chunk → identify → compress → pack → encrypt → every replica → commit.
//!
//! - **Consistency**: a snapshot exists once its signature exists. The order of writes is packs,
//!   index segments and their signatures, manifest, act, signature. Each step is durable in at
//!   least `min_replicas` replicas before the next begins. The act decides (`decide.rs`).
//! - **Failure**: a run that fails before the act leaves no snapshot. It leaves packs, which the
//!   next run finds in the journal and uses.
//! - **Cancellation**: a run can be cancelled until the commit begins. The commit itself writes a
//!   few small objects and is always finished.
//! - **Replicas**: a replica that fails is behind for the rest of the run. A replica gets the
//!   manifest only if it holds every pack that the manifest names.

mod budget;
mod buffers;
pub(crate) mod chunk;
mod chunk_index;
mod commit;
pub mod compress;
mod cut;
mod decide;
mod dedup;
mod entries;
mod figures;
mod fleet;
mod follow;
mod fragments;
mod group;
mod intake;
mod kept_segments;
mod logged;
mod messages;
mod outbox;
mod packer;
mod pipeline;
mod place;
mod predecessor;
mod records;
mod report;
mod row_search;
mod scratch;
mod sequence;
mod shared;
mod stand;
mod times;
mod unread;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use chrono::TimeDelta;
use lifeboat_base::clock::SharedClock;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Error, Result};
use lifeboat_databases::{Source, ToolEnvironment, WorkContext};
use lifeboat_format::Format;
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::{Accounting, Manifest};
use lifeboat_format::requirements::Requirements;
use lifeboat_store::SharedReplica;
use tokio_util::sync::CancellationToken;

pub use self::budget::RunBudget;
use self::buffers::Buffers;
use self::chunk_index::ChunkIndex;
use self::commit::Commit;
use self::entries::entries;
use self::figures::{figures_before, figures_of_captured};
use self::fleet::Fleet;
use self::follow::InView;
pub use self::group::MemberMoment;
use self::kept_segments::KeptSegments;
use self::messages::Captured;
use self::pipeline::Pipeline;
use self::place::{Place, PlaceFound};
use self::predecessor::Predecessor;
pub use self::report::{BackupReport, ReplicaOutcome};
use self::row_search::Rows;
use self::scratch::RunScratch;
use self::shared::Shared;
use self::times::NewTime;
use self::unread::Unread;
use crate::catalog::clocks::ClockWitnesses;
use crate::catalog::documents::Documents;
use crate::catalog::inventory::Inventory;
use crate::catalog::order::OrderReader;
use crate::config::{Config, Dataset, Dedup, Limits};
use crate::keys::{DatasetKeys, HostKeys};
use crate::renewal::sparse;
use crate::root;
use crate::rows::units::UnitCutter;
use crate::state::StateDirectory;
use crate::state::cache::ObjectCache;
use crate::state::journal::Journal;
use crate::state::row_index::RowIndex;
use crate::state::{seen, watch};

/// How far a run has come, in bytes.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes read from the source.
    pub read: AtomicU64,
    /// The part of `read` that was stored already.
    pub deduplicated: AtomicU64,
    /// Ciphertext of packs that are durable in at least `min_replicas` replicas.
    pub stored: AtomicU64,
    /// Whether the commit has begun, which is always finished. It stays so until the run ends.
    pub committing: AtomicBool,
}

/// Everything that a backup needs.
pub struct Backup<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The dataset to back up.
    pub dataset: &'a Dataset,
    /// The source that reads the dataset.
    pub source: &'a dyn Source,
    /// The part of the program's environment that client tools inherit.
    pub environment: &'a ToolEnvironment,
    /// This host's keys.
    pub keys: &'a HostKeys,
    /// The replicas that receive the backup.
    pub replicas: &'a [SharedReplica],
    /// The places that hold records alone: of this backup, its act.
    pub records: &'a [SharedReplica],
    /// The state directory. The caller must hold the dataset's lock.
    pub state: &'a StateDirectory,
    /// The clock.
    pub clock: SharedClock,
    /// The moment that it shares with others of its group; `None`: it is no member of one.
    pub group: Option<&'a MemberMoment>,
    /// What it shares with the other runs of this program.
    pub budget: Arc<RunBudget>,
    /// Is updated while the backup runs.
    pub progress: Arc<Progress>,
    /// Cancels the backup if it has not begun to commit.
    pub cancel: CancellationToken,
}

impl Backup<'_> {
    /// Runs the backup. It is `Ok` only if the snapshot is committed in at least `min_replicas`
    /// replicas.
    ///
    /// # Errors
    /// Of the [class](lifeboat_base::Class) `Source`, `Storage`, `Keys` or `Integrity`, after the
    /// cause; `Failed` if the backup was cancelled. No snapshot exists then, except in replicas
    /// that took the signature before too many others failed.
    pub async fn run(&self) -> Result<BackupReport> {
        let (began, now) = (self.clock.elapsed(), self.clock.now());
        let dataset = &self.dataset.name;
        let found = root::renew(self.keys, self.replicas, self.state, now).await?;
        let have_root = found.is_none_or(|(_, found)| found.incomplete.is_empty() && found.unanswered.is_empty());
        self.keys.trust.check_may_sign(&self.keys.signer.public(), dataset)?;
        let keys = self.keys.dataset(dataset)?.clone();
        let generation = keys.generation;
        let sparse = sparse::read(self.state, dataset);
        let (mut members, mut failed) = self.look(generation, &sparse).await;
        let is_first = members.iter().all(Inventory::is_empty);
        let were_level =
            have_root && failed.is_empty() && members.windows(2).all(|pair| pair[0].is_level_with(&pair[1]));
        // Replicas that refuse tell the time, too: they may refuse because of this host's clock.
        let witnesses = ClockWitnesses::of(self.replicas, self.config.limits.clock_skew);
        let mut warnings = witnesses.check()?;
        let cache = ObjectCache::open(self.state, dataset, &self.keys.trust.mark());
        let reader = self.keys.reader();
        let documents = Documents {
            vault: &self.keys.vault,
            dataset,
            keys: &reader,
            cache: Some(&cache),
            memory: self.config.limits.memory,
        };
        let order = OrderReader::of_host(self.keys, dataset, &cache);
        let mut records = self.look_at_records(&mut failed, &mut warnings).await;
        let standing = self.stand(&order, &documents, (&mut members, &mut records), &mut failed, &mut warnings).await?;
        let mut place = loop {
            match Place::find(&documents, &members, &mut warnings).await? {
                PlaceFound::After(place) => break *place,
                // Replicas that show a snapshot and do not give it are as good as away: if there
                // are enough others, they do not stop the backup.
                PlaceFound::NotNow(snapshot, error) => {
                    let holds = |member: &mut Inventory| member.snapshots.contains(&snapshot);
                    let holders: Vec<Inventory> = members.extract_if(.., holds).collect();
                    if members.len() < self.config.min_replicas.max(1) {
                        return Err(error);
                    }
                    let without = |holder: Inventory| {
                        let doubt = Error::storage(error.chain());
                        (holder.replica.name().clone(), doubt)
                    };
                    failed.extend(holders.into_iter().map(without));
                }
            }
        };
        if let Some(before) = &place.manifest {
            self.check_kind(&before.source.engine)?;
        }
        let newest = standing.seen;
        let view = InView { order: &order, documents: &documents, members: &members, records: &records, newest };
        view.follow(&mut place, &mut warnings).await?;
        self.check_places(members.len(), records.len(), &failed)?;
        let fleet = Fleet::new(dataset, members, failed, self.config.min_replicas)?;
        let started = now;
        // An id is later than the one before, whatever the clock says; what began when stays true.
        let last = place.previous.as_ref().map(|last| last.snapshot.time());
        let named = last.map_or(now, |last| now.max(last + TimeDelta::milliseconds(1)));
        let snapshot = SnapshotId::new(named, rand::random());
        let new = NewTime {
            dataset: self.dataset,
            limits: &self.config.limits,
            snapshot: &snapshot,
            now,
            witnesses: &witnesses,
            members: fleet.members(),
            documents: &documents,
        };
        let doubtful_times = new.doubts(&place, &mut warnings).await;
        let journal = Journal::open(self.state, dataset, &self.keys.host_key, generation)?;
        let index = {
            let kept = KeptSegments::open(&cache, self.keys, dataset);
            ChunkIndex::build(&documents, fleet.members(), generation, journal.read(), kept, &mut warnings).await
        };

        let Place { previous, sequence, manifest: predecessor } = place;
        let rows = self.rows(&keys, predecessor.as_ref(), fleet.members(), &sparse, &mut warnings)?;
        let before = figures_before(self, &fleet, predecessor.as_ref());
        let unread = Unread::of(self, predecessor.as_ref(), now);
        let comparable =
            predecessor.is_some_and(|before| before.packs.iter().all(|pack| pack.generation == generation));

        let cancel = self.cancel.child_token();
        let Limits { memory, cpu, .. } = self.config.limits;
        let buffers = Buffers::new(memory, self.dataset.chunk_size, cpu);
        let shared = Arc::new(Shared {
            index,
            rows,
            unread,
            keys,
            fleet,
            journal,
            journal_failure: OnceLock::new(),
            progress: self.progress.clone(),
            cancel,
            chunk_size: self.dataset.chunk_size,
            compression: self.dataset.compression,
            threads: cpu,
            share: self.budget.share(Arc::new(buffers)),
        });
        let (mut captured, facts) = self.capture(&shared).await?;
        let mut figures = figures_of_captured(&captured, self.source.database());
        (figures.at, figures.comparable) = (started, comparable);
        if let Some((name, _)) = figures.streams.iter().find(|(_, stream)| stream.bytes == 0)
            && !self.source.may_be_empty()
        {
            return Err(Error::source_failed(format!("stream `{name}` is empty"))
                .hint("find out why the source wrote nothing; nothing was committed"));
        }
        let (streams, unused) =
            entries(&mut captured, &shared.rows.as_ref().map(|rows| rows.maps()).unwrap_or_default())?;
        warnings.extend(facts.warnings.iter().cloned());
        let skipped = facts.skipped.clone();
        figures.partial = !skipped.is_empty();
        let finished = self.clock.now();
        self.check_cancelled()?;

        let commit = Commit {
            fleet: &shared.fleet,
            dataset: self.dataset,
            keys: self.keys,
            required: self.config.min_replicas,
            required_places: self.config.min_places(),
            records: records.iter().map(|place| place.replica.clone()).collect(),
            reader: order,
            standing: &standing,
            host: &self.config.host,
            clock: &self.clock,
        };
        let targets = commit.complete_replicas(&captured).await?;
        let mut manifest = Manifest {
            format: Format::Two,
            requires: Requirements::default(),
            vault: self.keys.vault.clone(),
            dataset: dataset.clone(),
            snapshot: snapshot.clone(),
            sequence,
            previous,
            host: self.config.host.clone(),
            started,
            finished,
            group: self.group.and_then(MemberMoment::told),
            source: facts,
            packs: captured.packs.clone(),
            accounting: Accounting {
                unused,
                raw_bytes: streams.iter().map(|stream| stream.length).sum(),
                deduplicated_bytes: captured.deduplicated,
                row_bytes: captured.rows,
                stored_bytes: captured.stored,
                new_packs: captured.receipts.len() as u64,
            },
            streams,
        };
        manifest.check_writable()?;
        // Packs may have been copied meanwhile.
        self.check_cancelled()?;
        self.progress.committing.store(true, Ordering::SeqCst);
        if let Err(error) = watch::expect(self.state, dataset, &snapshot, &figures) {
            warnings.push(format!("if this run is killed, nobody compares it with its history: {}", error.chain()));
        }
        let committed = commit.write(generation, &captured, &mut manifest, targets, &cache).await;
        if let Err(error) = &committed
            && error.class() != Class::Unknown
        {
            // What stays is only judged too often.
            drop(watch::expect_no_more(self.state, dataset, &snapshot));
        }
        let (act, targets) = committed?;
        // What cannot be read was told at the beginning.
        if let Err(error) = seen::remember(self.state, dataset, act.act.number)
            && !warnings.iter().any(|warning| warning.contains(&error.chain()))
        {
            warnings.push(error.chain());
        }
        let unlogged = self.record(&act, &mut warnings).await;
        if let Err(error) = shared.journal.clear() {
            warnings.push(error.chain());
        }
        if let Some(error) = shared.journal_failure.get() {
            warnings.push(format!(
                "this run could not note which packs it had uploaded; had it failed, the next one would have uploaded them again: {}",
                error.chain_and_hint()
            ));
        }
        if let Some(why) = cache.failure() {
            warnings
                .push(format!("local copies of small objects cannot be kept, so each run fetches them again: {why}"));
        }
        if let Some(rows) = &shared.rows {
            let (streams, said) = rows.finish();
            warnings.extend(said);
            if let Err(error) = rows.remember(&snapshot, generation, &streams) {
                warnings.push(error.chain());
            }
        }
        shared.unread.remember(self, &manifest, &mut warnings);
        let replicas = self.outcomes(&shared.fleet, &targets);
        Ok(BackupReport {
            dataset: dataset.clone(),
            snapshot,
            started,
            finished: self.clock.now(),
            duration_seconds: self.clock.elapsed().saturating_sub(began).as_secs_f64(),
            raw_bytes: manifest.accounting.raw_bytes,
            deduplicated_bytes: manifest.accounting.deduplicated_bytes,
            row_bytes: manifest.accounting.row_bytes,
            unread_bytes: shared.unread.bytes(),
            stored_bytes: manifest.accounting.stored_bytes,
            new_packs: manifest.accounting.new_packs,
            is_first,
            are_level: were_level && replicas.iter().all(|outcome| outcome.complete),
            replicas,
            unlogged,
            warnings,
            doubtful_times,
            skipped,
            figures,
            figures_before: before,
        })
    }

    /// Refuses a source of another kind than the dataset's newest snapshot has, unless somebody
    /// said that this is meant: it may well be another database, whose snapshots would push out
    /// those of the right one.
    fn check_kind(&self, before: &str) -> Result<()> {
        let now = self.source.database().kind();
        if before == now || self.dataset.replaces == Some(before) {
            return Ok(());
        }
        let name = &self.dataset.name;
        Err(Error::configuration(format!("dataset {name} was backed up from {before}, and its source is of kind {now}"))
            .hint(format!(
                "correct [dataset.source]; or give the new source a [[dataset]] of its own; or, if it takes the place of the old one, set replaces = \"{before}\" in this one"
            )))
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            let what = format!("the backup of {}", self.dataset.name);
            return Err(Error::cancelled(&what).hint("nothing was committed; run it again"));
        }
        Ok(())
    }

    /// Lists every replica. Returns the usable ones, and the errors of the others, such as replicas
    /// that could not restore what this run writes. The run does not see sparse packs, so it cannot
    /// refer to them.
    async fn look(&self, generation: u32, sparse: &BTreeSet<PackId>) -> (Vec<Inventory>, BTreeMap<Name, Error>) {
        let dataset = &self.dataset.name;
        let keyring = layout::keyring_generation(dataset, generation);
        let (inventories, mut failed) = Inventory::take_all_to_write(self.replicas, &self.keys.vault, dataset).await;
        let (mut members, lacking): (Vec<_>, Vec<_>) =
            inventories.into_iter().partition(|inventory| inventory.keyring.contains(&keyring));
        members.iter_mut().for_each(|member| member.forget(sparse));
        for inventory in lacking {
            let replica = inventory.replica.name();
            let error =
                Error::keys(format!("replica {replica} lacks {keyring}, so it could not restore this backup alone"));
            failed.insert(replica.clone(), error.hint("run `lifeboat init` again: it uploads what the replica lacks"));
        }
        (members, failed)
    }

    /// What rows are compared with; `None` if the dataset deduplicates whole chunks only.
    fn rows(
        &self,
        keys: &DatasetKeys,
        predecessor: Option<&Manifest>,
        members: &[Inventory],
        sparse: &BTreeSet<PackId>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Arc<Rows>>> {
        let index = match RowIndex::open(self.state, &self.dataset.name, &self.keys.host_key) {
            Ok(index) => index,
            Err(error) => {
                let why = error.chain_and_hint();
                warnings.push(format!("rows are not deduplicated, because the row index cannot be opened: {why}"));
                return Ok(None);
            }
        };
        if self.dataset.dedup == Dedup::Chunks {
            index.clear();
            return Ok(None);
        }
        let cutter = UnitCutter::new(&keys.chunk_id_key);
        let generation = keys.generation;
        let is_current = |manifest: &&Manifest| manifest.packs.iter().all(|pack| pack.generation == generation);
        let base = predecessor.filter(is_current);
        let base = base.map(|manifest| Predecessor::new(manifest, generation, &index, members, sparse)).transpose()?;
        let Limits { memory, runs, .. } = self.config.limits;
        Ok(Some(Arc::new(Rows::new(index, cutter, base, memory / runs.max(1) as u64))))
    }

    /// Runs the source and the pipeline side by side. Returns the error of whichever failed first.
    async fn capture(&self, shared: &Arc<Shared>) -> Result<(Captured, SourceFacts)> {
        let scratch = RunScratch::make(self.state, &self.dataset.name);
        let cx = WorkContext {
            environment: self.environment.clone(),
            scratch: scratch.path().to_owned(),
            stall: self.config.limits.stall,
            jobs: self.config.limits.cpu,
            cancel: shared.cancel.clone(),
        };
        let pipeline = Pipeline::start(shared.clone());
        let sink = pipeline.sink(self.group.map(|group| group.moment.clone()).unwrap_or_default());
        let facts = match group::capture(self.source, &sink, &cx).await {
            Ok(facts) => sink.store_maps(shared).await.map(|()| facts),
            Err(error) => Err(scratch.explained(error)),
        };
        drop(sink);
        let pipeline_failed = shared.cancel.is_cancelled() && !self.cancel.is_cancelled();
        if facts.is_err() {
            shared.cancel.cancel();
        }
        let captured = pipeline.finish().await;
        if let Err(error) = std::fs::remove_dir_all(&cx.scratch)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %cx.scratch.display(), "cannot remove temporary files");
        }
        match (facts, captured) {
            _ if self.cancel.is_cancelled() => Err(Error::cancelled(&format!("the backup of {}", self.dataset.name))
                .hint("nothing was committed; run it again")),
            (Err(_), Err(error)) if pipeline_failed => Err(error),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(facts), Ok(captured)) => Ok((captured, facts)),
        }
    }

    fn outcomes(&self, fleet: &Fleet, targets: &[SharedReplica]) -> Vec<ReplicaOutcome> {
        let behind = fleet.behind();
        let outcome = |replica: &SharedReplica| {
            let complete = targets.iter().any(|target| target.name() == replica.name());
            let error = (!complete).then(|| {
                let lacking = || "it lacks older packs; the daemon will copy them".to_owned();
                behind.get(replica.name()).cloned().unwrap_or_else(lacking)
            });
            ReplicaOutcome { replica: replica.name().clone(), complete, error }
        };
        self.replicas.iter().map(outcome).collect()
    }
}
