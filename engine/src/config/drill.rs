//! Validates `[drill]` and `[dataset.drill]`: how datasets are drilled, which only a drill host
//! reads.
//!
//! `[drill]` counts for every dataset, those without a section included. A key of `[dataset.drill]`
//! takes the place of the same key there.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use lifeboat_base::settings::{SettingsReader, Text, units};
use lifeboat_databases::DrillCommands;
use lifeboat_databases::proof::{DrillQuery, Number, ProofLevel};
use lifeboat_databases::{Database, Source};
use lifeboat_format::id::Name;
use lifeboat_store::ReplicaConfig;
use toml::Spanned;

use super::defaults;
use super::fields::time_zone;
use super::raw::{RawDrill, RawQuery};
use crate::schedule::Schedule;

/// What is left out of drills is restored so often at least.
const MAX_FULL_EVERY: Duration = Duration::from_secs(366 * 86_400);
/// Takes the schedule of `[drill]` away from one dataset.
const NEVER_DUE: &str = "never";

/// `[drill]` or `[dataset.drill]`.
#[derive(Debug, Clone)]
pub struct DrillConfig {
    /// The level a drill must reach to succeed. `None`: what a source of the snapshot's kind can
    /// reach.
    pub level: Option<ProofLevel>,
    /// Queries, each with what must be true of its result.
    pub queries: Vec<DrillQuery>,
    /// Directories in which server binaries are looked for before those of the system.
    pub server_directories: Vec<PathBuf>,
    /// What restores and judges a snapshot that only its operator understands.
    pub commands: DrillCommands,
    /// When `lifeboat drill --due` drills. `None`: never.
    pub schedule: Option<Schedule>,
    /// The time zone of schedules.
    pub time_zone: Tz,
    /// Which snapshot is drilled.
    pub snapshot: SnapshotChoice,
    /// Which replica it is read from.
    pub replica: ReplicaChoice,
    /// No replica in the home region of the dataset is read.
    pub outside: bool,
    /// A drill may take this long. `None`: as long as it takes.
    pub max_time: Option<Duration>,
    /// The restored data may have this many bytes. `None`: as many as it has.
    pub max_disk: Option<u64>,
    /// What has not changed since a drill of a whole snapshot, which began no longer ago, need not
    /// be restored again. `None`: every drill is of the whole snapshot.
    pub full_every: Option<Duration>,
}

impl Default for DrillConfig {
    fn default() -> Self {
        Self {
            level: None,
            queries: Vec::new(),
            server_directories: Vec::new(),
            commands: DrillCommands::default(),
            schedule: None,
            time_zone: defaults::TIME_ZONE,
            snapshot: SnapshotChoice::default(),
            replica: ReplicaChoice::Any,
            outside: false,
            max_time: None,
            max_disk: None,
            full_every: None,
        }
    }
}

impl DrillConfig {
    /// The highest level that a drill of a snapshot of this engine can reach.
    #[must_use]
    pub fn highest_level(&self, engine: &dyn Database) -> ProofLevel {
        let by_commands = if engine.takes_commands() { self.commands.highest_level() } else { ProofLevel::Fetched };
        engine.highest_level().max(by_commands)
    }
}

/// Which of the snapshots that are kept is drilled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SnapshotChoice {
    /// The newest.
    #[default]
    Newest,
    /// The oldest.
    Oldest,
    /// Any of them, with the same chance.
    Random,
    /// The one whose last drill is longest ago.
    Rotate,
}

impl SnapshotChoice {
    const ALL: [Self; 4] = [Self::Newest, Self::Oldest, Self::Random, Self::Rotate];

    /// The word in configuration and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Oldest => "oldest",
            Self::Random => "random",
            Self::Rotate => "rotate",
        }
    }
}

/// Which replica a drill reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaChoice {
    /// All that there are: each part comes from the first that has it.
    Any,
    /// The one whose last drill of the dataset is longest ago, alone.
    Rotate,
    /// This one alone.
    Named(Name),
}

impl ReplicaChoice {
    const ROTATE: &'static str = "rotate";

    /// The word in reports.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Any => "any",
            Self::Rotate => Self::ROTATE,
            Self::Named(name) => name.as_str(),
        }
    }
}

/// `[drill]`.
pub(super) fn of_all(v: &mut SettingsReader<'_>, raw: RawDrill, replicas: &[ReplicaConfig]) -> DrillConfig {
    if let Some(query) = raw.queries.first() {
        let problem = "[drill] counts for every dataset, and a query asks the database of one";
        v.findings.add(query.span(), problem, "move `queries` to the [dataset.drill] of that dataset");
    }
    for (key, command) in [("restore", &raw.restore), ("verify", &raw.verify)] {
        if let Some(command) = command {
            let problem = format!("[drill] counts for every dataset, and `{key}` understands the snapshots of one");
            let remedy = format!("move `{key}` to the [dataset.drill] of that dataset");
            v.findings.add(command.span(), problem, remedy);
        }
    }
    let level = raw.level.as_ref().and_then(|text| {
        let level = level(text);
        if level.is_none() {
            refuse_level(v, text.span(), text.get_ref(), "this is no level", ProofLevel::Proved);
        }
        level
    });
    DrillConfig { level, ..values(v, raw, &DrillConfig::default(), replicas) }
}

/// The `[dataset.drill]` of a dataset whose home is `home_region`, over `[drill]`.
pub(super) fn of_dataset(
    v: &mut SettingsReader<'_>,
    raw: RawDrill,
    of_all: &DrillConfig,
    (source, home_region): (&dyn Source, &str),
    replicas: &[ReplicaConfig],
) -> DrillConfig {
    let database = source.database();
    let commands = commands(v, &raw, database);
    let highest = DrillConfig { commands: commands.clone(), ..DrillConfig::default() }.highest_level(database);
    let (told, told_at) = match &raw.level {
        Some(text) => (text.get_ref().as_str(), text.span()),
        None => (of_all.level.unwrap_or(highest).as_str(), 0..0),
    };
    let level = raw.level.as_ref().map_or(of_all.level, level);
    let has_level = raw.level.is_some() || of_all.level.is_some();
    if has_level && level.is_none_or(|level| level > highest) {
        let why = format!("not possible for a source of kind {}", database.kind());
        refuse_level(v, told_at, told, &why, highest);
    }
    let span = |text: &Option<Text>| text.as_ref().map(Text::span);
    let replica_at = span(&raw.replica).or_else(|| raw.outside.as_ref().map(Spanned::span)).unwrap_or_default();
    let settings = DrillConfig { level: Some(level.unwrap_or(highest)), commands, ..values(v, raw, of_all, replicas) };
    if settings.outside {
        let is_home = |replica: &&ReplicaConfig| replica.region == home_region;
        let named = |replica: &&ReplicaConfig| settings.replica == ReplicaChoice::Named(replica.name.clone());
        if let Some(replica) = replicas.iter().find(named).filter(is_home) {
            let problem = format!(
                "outside = true, but replica = \"{}\" is in {home_region}, the home region of the dataset",
                replica.name
            );
            v.findings.add(replica_at, problem, "name a replica elsewhere, or use replica = \"rotate\"");
        } else if !replicas.is_empty() && replicas.iter().all(|replica| is_home(&replica)) {
            let problem =
                format!("outside = true, but every replica is in {home_region}, the home region of the dataset");
            v.findings.add(replica_at, problem, "add a [[replica]] elsewhere, or leave `outside` out");
        }
    }
    settings
}

/// The commands that restore and judge snapshots of this engine.
fn commands(v: &mut SettingsReader<'_>, raw: &RawDrill, engine: &dyn Database) -> DrillCommands {
    let mut command = |key: &str, argv: Option<&Spanned<Vec<String>>>| {
        let argv = argv?;
        if !engine.takes_commands() {
            let problem = format!(
                "`{key}` is for snapshots that only you understand, and one of kind {} is restored and checked without",
                engine.kind()
            );
            v.findings.add(argv.span(), problem, format!("leave `{key}` out; ask by `queries` what must be true"));
        } else if argv.get_ref().first().is_none_or(String::is_empty) {
            v.findings.add(argv.span(), format!("{key} is empty"), "name a program and its arguments");
        }
        Some(argv.get_ref().clone())
    };
    DrillCommands { restore: command("restore", raw.restore.as_ref()), verify: command("verify", raw.verify.as_ref()) }
}

/// What both sections have; all but the level and the commands.
fn values(v: &mut SettingsReader<'_>, raw: RawDrill, base: &DrillConfig, replicas: &[ReplicaConfig]) -> DrillConfig {
    let time_zone = if raw.time_zone.is_some() { time_zone(v, raw.time_zone.as_ref()) } else { base.time_zone };
    let directories = raw.server_directories.as_ref();
    DrillConfig {
        level: None,
        commands: DrillCommands::default(),
        schedule: schedule(v, raw.schedule.as_ref(), base, time_zone),
        time_zone,
        snapshot: raw.snapshot.as_ref().map_or(base.snapshot, |text| snapshot(v, text).unwrap_or(base.snapshot)),
        replica: raw.replica.as_ref().map_or_else(|| base.replica.clone(), |text| replica(v, text, replicas)),
        outside: raw.outside.as_ref().map_or(base.outside, |outside| *outside.get_ref()),
        max_time: more_than_nothing(v, raw.max_time.as_ref(), units::duration).or(base.max_time),
        max_disk: more_than_nothing(v, raw.max_disk.as_ref(), units::size).or(base.max_disk),
        full_every: full_every(v, raw.full_every.as_ref(), base.full_every),
        server_directories: match directories {
            Some(directories) => directories.iter().map(|directory| v.path(directory)).collect(),
            None => base.server_directories.clone(),
        },
        queries: raw.queries.into_iter().map(|query| validated(v, query)).collect(),
    }
}

/// A query of which more is asked than one answer can be is refused.
fn validated(v: &mut SettingsReader<'_>, raw: Spanned<RawQuery>) -> DrillQuery {
    let (place, raw) = (raw.span(), raw.into_inner());
    let is_number = raw.at_least.is_some() || raw.at_most.is_some();
    if [raw.expect.is_some(), is_number, raw.fresher_than.is_some()].into_iter().filter(|set| *set).count() > 1 {
        let remedy = "use `expect`, or `at_least` and `at_most`, or `fresher_than`";
        v.findings.add(place.clone(), "this query has more than one kind of expectation", remedy);
    }
    let value = |number: Number| match number {
        Number::Whole(number) => number as f64,
        Number::Real(number) => number,
    };
    let bounds = (raw.at_least.map(value), raw.at_most.map(value));
    if bounds.0.into_iter().chain(bounds.1).any(|bound: f64| !bound.is_finite()) {
        v.findings.add(place.clone(), "a bound of this query is no number", "use a number");
    } else if matches!(bounds, (Some(least), Some(most)) if least > most) {
        v.findings.add(
            place,
            "no result of this query can be at least `at_least` and at most `at_most`",
            "correct one",
        );
    }
    DrillQuery {
        database: raw.database,
        sql: raw.sql,
        expect: raw.expect,
        at_least: raw.at_least,
        at_most: raw.at_most,
        fresher_than: more_than_nothing(v, raw.fresher_than.as_ref(), units::duration),
        taken_at: None,
    }
}

fn level(text: &Text) -> Option<ProofLevel> {
    DRILL_LEVELS.into_iter().find(|level| level.as_str() == text.get_ref())
}

const DRILL_LEVELS: [ProofLevel; 4] =
    [ProofLevel::Fetched, ProofLevel::Loaded, ProofLevel::Checked, ProofLevel::Proved];

fn refuse_level(v: &mut SettingsReader<'_>, place: Range<usize>, told: &str, why: &str, highest: ProofLevel) {
    let possible: Vec<_> = DRILL_LEVELS.iter().filter(|level| **level <= highest).map(|level| level.as_str()).collect();
    let remedy = format!("use one of: {}", possible.join(", "));
    // Where the section of the dataset does not name it, that of all does.
    let section = if place.is_empty() { " of [drill]" } else { "" };
    v.findings.add(place, format!("level = \"{told}\"{section} is {why}"), remedy);
}

fn schedule(v: &mut SettingsReader<'_>, raw: Option<&Text>, base: &DrillConfig, zone: Tz) -> Option<Schedule> {
    let (expression, place) = match (raw, &base.schedule) {
        (Some(text), _) if text.get_ref() == NEVER_DUE => return None,
        (Some(text), _) => (text.get_ref().as_str(), text.span()),
        (None, Some(schedule)) => (schedule.expression(), 0..0),
        (None, None) => return None,
    };
    match Schedule::parse(expression, zone, Duration::ZERO) {
        Ok(schedule) => Some(schedule),
        Err(error) => {
            v.findings.add(place, error.chain(), error.hint_text().unwrap_or_default());
            None
        }
    }
}

fn snapshot(v: &mut SettingsReader<'_>, text: &Text) -> Option<SnapshotChoice> {
    let known = SnapshotChoice::ALL.into_iter().find(|choice| choice.as_str() == text.get_ref());
    if known.is_none() {
        let problem = format!("snapshot = \"{}\" is unknown", text.get_ref());
        let words = SnapshotChoice::ALL.map(SnapshotChoice::as_str);
        v.findings.add(text.span(), problem, format!("use one of: {}", words.join(", ")));
    }
    known
}

fn replica(v: &mut SettingsReader<'_>, text: &Text, replicas: &[ReplicaConfig]) -> ReplicaChoice {
    if text.get_ref() == ReplicaChoice::ROTATE {
        return ReplicaChoice::Rotate;
    }
    match replicas.iter().find(|replica| replica.name.as_str() == text.get_ref()) {
        Some(replica) => ReplicaChoice::Named(replica.name.clone()),
        None => {
            let names: Vec<&str> = replicas.iter().map(|replica| replica.name.as_str()).collect();
            let problem = format!("replica = \"{}\" is the name of no [[replica]]", text.get_ref());
            v.findings.add(text.span(), problem, format!("use \"rotate\", or one of: {}", names.join(", ")));
            ReplicaChoice::Any
        }
    }
}

/// With nothing, every drill is of the whole snapshot.
fn full_every(v: &mut SettingsReader<'_>, text: Option<&Text>, base: Option<Duration>) -> Option<Duration> {
    let Some(every) = v.unit(text, units::duration) else { return base };
    if let Some(text) = text.filter(|_| every > MAX_FULL_EVERY) {
        let remedy = "use at most \"366d\", such as \"30d\"";
        v.findings.add(text.span(), "a proof that is older than a year says little of a restore today", remedy);
    }
    Some(every).filter(|every| !every.is_zero())
}

/// A limit of zero would let no drill run.
fn more_than_nothing<T: Default + PartialEq>(
    v: &mut SettingsReader<'_>,
    text: Option<&Text>,
    parse: fn(&str) -> Result<T, String>,
) -> Option<T> {
    let value = v.unit(text, parse)?;
    if value == T::default() {
        v.findings.add(text?.span(), "with this limit, no drill can succeed", "raise it, or leave it out");
        return None;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lifeboat_base::settings::Surroundings;

    use super::*;
    use crate::config::Config;

    /// The configuration of a host with two datasets at home in `near`, and two replicas.
    fn config(of_all: &str, of_shop: &str) -> Result<Config, String> {
        let replica = |name: &str| {
            format!("[[replica]]\nname = \"{name}\"\nkind = \"directory\"\nregion = \"{name}\"\npath = \"/{name}\"\n")
        };
        let dataset = |name: &str, source: &str| {
            format!("[[dataset]]\nname = \"{name}\"\nhome_region = \"near\"\n[dataset.source]\n{source}\n")
        };
        let text = format!(
            "host = \"drill1\"\n[keys]\ndirectory = \"/nonexistent/keys\"\n[drill]\n{of_all}\n{}{}{}[dataset.drill]\n{of_shop}\n{}",
            replica("near"),
            replica("far"),
            dataset("shop", "kind = \"sqlite\"\npath = \"/shop.db\""),
            dataset("logs", "kind = \"file\"\npath = \"/log\""),
        );
        Config::parse(&text, Path::new("lifeboat.toml"), &Surroundings::default())
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_key_of_a_dataset_takes_the_place_of_the_same_key_of_all() -> Result<(), String> {
        let of_all = "schedule = \"0 4 * * sun\"\ntime_zone = \"Europe/Berlin\"\nsnapshot = \"rotate\"\nreplica = \"rotate\"\nmax_time = \"6h\"\nmax_disk = \"100GiB\"";
        let found = config(of_all, "snapshot = \"oldest\"\nreplica = \"far\"\noutside = true\nmax_time = \"1h\"")?;
        let of = |name: &str| found.drill_of(&name.parse().unwrap_or_else(|_| unreachable!())).clone();
        let (shop, logs, other) = (of("shop"), of("logs"), of("other"));
        assert_eq!(logs.replica, ReplicaChoice::Rotate);
        assert_eq!((shop.snapshot, shop.outside), (SnapshotChoice::Oldest, true));
        assert_eq!(shop.replica.as_str(), "far");
        assert_eq!((shop.max_time, shop.max_disk), (Some(Duration::from_secs(3600)), Some(100 << 30)));
        assert_eq!((logs.snapshot, logs.outside), (SnapshotChoice::Rotate, false));
        assert_eq!((logs.level, other.level), (Some(ProofLevel::Fetched), None));
        for dataset in [&shop, &logs, &other] {
            let schedule =
                dataset.schedule.as_ref().map(|schedule| (schedule.expression(), schedule.time_zone().name()));
            assert_eq!(schedule, Some(("0 4 * * sun", "Europe/Berlin")));
        }
        let moved = config(of_all, "time_zone = \"Asia/Tokyo\"")?;
        assert_eq!(moved.datasets[0].drill.schedule.as_ref().map(Schedule::time_zone), Some(Tz::Asia__Tokyo));
        assert!(config(of_all, "schedule = \"never\"")?.datasets[0].drill.schedule.is_none());
        assert!(config("", "")?.datasets.iter().all(|dataset| dataset.drill.schedule.is_none()));
        Ok(())
    }

    #[test]
    fn what_is_unknown_or_contradicts_itself_is_refused_by_name() {
        for (of_all, of_shop, said) in [
            ("snapshot = \"latest\"", "", "snapshot = \"latest\" is unknown"),
            ("", "snapshot = \"any\"", "snapshot = \"any\" is unknown"),
            ("replica = \"x\"", "", "replica = \"x\" is the name of no [[replica]]"),
            ("", "replica = \"x\"", "use \"rotate\", or one of: near, far"),
            ("", "replica = \"near\"\noutside = true", "replica = \"near\" is in near, the home region"),
            ("replica = \"near\"", "outside = true", "replica = \"near\" is in near, the home region"),
            ("outside = true", "replica = \"near\"", "replica = \"near\" is in near, the home region"),
            ("level = \"best\"", "", "level = \"best\""),
            ("level = \"proved\"", "", "level = \"proved\" of [drill] is not possible for a source of kind file"),
            ("schedule = \"never again\"", "", "has 2 fields"),
            ("", "schedule = \"0 4 31 2 *\"", "never fires"),
            ("time_zone = \"Mars\"", "", "is not a time zone"),
            ("max_time = \"0s\"", "", "no drill can succeed"),
            ("", "max_disk = \"0B\"", "no drill can succeed"),
            ("full_every = \"367d\"", "", "older than a year"),
            ("max_disk = \"9 kilos\"", "", "is not a size"),
            ("queries = [{ sql = \"SELECT 1\" }]", "", "counts for every dataset"),
            ("", "queries = [{ sql = \"x\", expect = \"1\", at_least = 1 }]", "more than one kind of expectation"),
            ("", "queries = [{ sql = \"x\", at_most = 1, fresher_than = \"1h\" }]", "more than one kind"),
            ("", "queries = [{ sql = \"x\", at_least = 2, at_most = 1.5 }]", "no result of this query"),
            ("", "queries = [{ sql = \"x\", at_least = nan }]", "is no number"),
            ("", "queries = [{ sql = \"x\", at_least = -inf }]", "is no number"),
            ("", "queries = [{ sql = \"x\", at_most = inf }]", "is no number"),
            ("", "queries = [{ sql = \"x\", at_least = \"2\" }]", "expected a number"),
            ("", "queries = [{ sql = \"x\", fresher_than = \"0s\" }]", "no drill can succeed"),
            ("", "queries = [{ sql = \"x\", fresher_than = 2 }]", "invalid type: integer"),
            (
                "",
                "verify = [\"/bin/true\"]",
                "`verify` is for snapshots that only you understand, and one of kind sqlite",
            ),
            ("restore = [\"/bin/cat\"]", "", "`restore` understands the snapshots of one"),
            ("jitter = \"1m\"", "", "unknown key `jitter`"),
            ("", "outsid = true", "unknown key `outsid`"),
        ] {
            let refused = config(of_all, of_shop).err().unwrap_or_default();
            assert!(refused.contains(said), "{of_all}, {of_shop}: {refused}");
        }
    }

    #[test]
    fn commands_of_the_operator_lift_the_highest_level() {
        let drilled = |of_logs: &str| {
            let text = format!(
                "host = \"drill1\"\n[keys]\ndirectory = \"/nonexistent/keys\"\n[[replica]]\nname = \"far\"\nkind = \"directory\"\nregion = \"far\"\npath = \"/far\"\n\
                 [[dataset]]\nname = \"logs\"\nhome_region = \"near\"\nsource = {{ kind = \"command\", argv = [\"/bin/dump\"] }}\n[dataset.drill]\n{of_logs}\n"
            );
            let config = Config::parse(&text, Path::new("lifeboat.toml"), &Surroundings::default());
            config.map(|config| config.datasets[0].drill.level).map_err(|error| error.message().to_owned())
        };
        assert_eq!(drilled(""), Ok(Some(ProofLevel::Fetched)));
        assert_eq!(drilled("restore = [\"/bin/load\"]"), Ok(Some(ProofLevel::Loaded)));
        assert_eq!(drilled("verify = [\"/bin/judge\"]"), Ok(Some(ProofLevel::Checked)));
        assert_eq!(drilled("level = \"loaded\"\nverify = [\"/bin/judge\"]"), Ok(Some(ProofLevel::Loaded)));
        for (of_logs, said) in [
            ("level = \"checked\"", "use one of: fetched"),
            ("level = \"proved\"\nverify = [\"/bin/judge\"]", "use one of: fetched, loaded, checked"),
            ("verify = []", "verify is empty"),
            ("restore = [\"\"]", "restore is empty"),
            ("verify = \"/bin/judge\"", "expected a sequence"),
        ] {
            let refused = drilled(of_logs).err().unwrap_or_default();
            assert!(refused.contains(said), "{of_logs}: {refused}");
        }
    }

    #[test]
    fn outside_needs_a_replica_outside() {
        let near =
            "outside = true\n[[replica]]\nname = \"near2\"\nkind = \"directory\"\nregion = \"near\"\npath = \"/near2\"";
        assert!(config(near, "").is_ok());
        let text = "host = \"drill1\"\n[keys]\ndirectory = \"/nonexistent/keys\"\n[[replica]]\nname = \"near\"\nkind = \"directory\"\nregion = \"near\"\npath = \"/near\"\n\
             [[dataset]]\nname = \"shop\"\nhome_region = \"near\"\n[dataset.source]\nkind = \"file\"\npath = \"/x\"\n[dataset.drill]\noutside = true\n";
        let refused = Config::parse(text, Path::new("lifeboat.toml"), &Surroundings::default()).err();
        let refused = refused.map(|error| error.message().to_owned()).unwrap_or_default();
        assert!(refused.contains("outside = true, but every replica is in near"), "{refused}");
    }
}
