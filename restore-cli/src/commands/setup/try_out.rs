//! `setup --try`: everything on one machine, as this user, below one folder: an owner, a backup
//! host, a drill host, and two directories as replicas. It says what is not safe about that.

use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use lifeboat_engine::base::Context;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::root::{Floors, Pattern};
use lifeboat_engine::root::{OwnerFolder, first_of};
use lifeboat_engine::{Class, Error, Result, keys};
use serde::Serialize;

use super::believe::RootFlags;
use super::place::{Installation, Part};
use super::steps::{CLI, Steps};
use super::{join, vault};
use crate::flags::ReplicaWord;
use crate::session::Session;
use crate::shell::quoted;

/// The folders of a trial.
const OWNER: &str = "owner";
const HOST: &str = "host";
const DRILL: &str = "drill";
const REPLICAS: [&str; 2] = ["near", "far"];

/// The file that says whose folder it is.
const MARK: &str = ".lifeboat-trial";

/// What was made.
#[derive(Serialize)]
struct Trial {
    directory: PathBuf,
    config: PathBuf,
    drill_config: PathBuf,
    datasets: Vec<Name>,
    not_safe: &'static str,
}

/// What a trial lacks, in three sentences.
const NOT_SAFE: &str = "Whoever steals this machine has all keys, the owner's too, so he reads every backup. \
    Both replicas are on this machine, so they are lost with it. \
    Nothing runs by schedule, so the backup grows old: set it up on machines of their own before you rely on it.";

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.datasets.iter().map(Name::as_str).collect();
        writeln!(f, "Backed up and proved by drill: {}.\n\nNot safe: {NOT_SAFE}\n", names.join(", "))?;
        let shown = |path: &Path| quoted(&path.display().to_string());
        writeln!(f, "Look at it:    lifeboat --config {} status", shown(&self.drill_config))?;
        writeln!(f, "Back up again: lifeboatd --config {} --once", shown(&self.config))?;
        write!(f, "Remove it:     rm -r {}", shown(&self.directory))
    }
}

pub(super) async fn run(directory: &Path, args: &vault::VaultFlags, session: &Session) -> Result<()> {
    let directory = std::path::absolute(directory).context(Class::Usage, || "the directory of --try cannot be used")?;
    take_folder(&directory)?;
    let place = |part: &str| Installation::own(&directory.join(part).join("lifeboat.toml"), part_of(part));
    let (host, drill, owner) = (place(HOST), place(DRILL), directory.join(OWNER));
    host.make_folders()?;
    drill.make_folders()?;
    let all = || vec![Pattern::all()];
    let host_line = keys::enrol_host(&host.keys, &HOST.parse()?, all())?;
    let drill_line = keys::enrol_drill_host(&drill.keys, &DRILL.parse()?, all())?;
    if !OwnerFolder::is_made(&owner) {
        OwnerFolder::make(&owner, &OWNER.parse()?)?;
    }
    let folder = OwnerFolder::open(&owner)?;
    let time = folder.first_signed()?.unwrap_or_else(|| session.clock.now());
    let request = first_of(&folder.line()?, vec![host_line], vec![drill_line], Floors::default(), time)?;
    let root = folder.sign(&folder.read(&request)?)?;
    session.out.note(format!("an owner, a backup host and a drill host are made in {}", directory.display()));

    let path = |name: &str| directory.join(format!("replica-{name}")).display().to_string();
    let replicas: Vec<ReplicaWord> = REPLICAS
        .iter()
        .map(|name| Ok(ReplicaWord { name: name.parse()?, place: Some(path(name)) }))
        .collect::<Result<_>>()?;
    let believed = RootFlags::of_trial(root)?;
    let of_host = args.of_trial(believed.clone(), replicas);
    let datasets = vault::run_quietly(&of_host, &host, session).await?;
    let [near, _] = REPLICAS;
    let of_drill = join::Args::of_trial(format!("{near}={}", path(near)), believed);
    join::run_quietly(&of_drill, &drill, session).await?;
    let mut steps = Steps::new(session, &drill, datasets.len());
    for dataset in &datasets {
        steps.next(&format!("the first drill of {dataset}"));
        steps.run(CLI, &["drill", dataset.as_str()], None).await?;
    }
    let (config, drill_config) = (host.config, drill.config);
    session.out.result(&Trial { directory, config, drill_config, datasets, not_safe: NOT_SAFE })
}

/// A trial is removed as a whole in the end, so nothing of others may be in its folder. One that is
/// new or empty gets the mark of a trial.
fn take_folder(directory: &Path) -> Result<()> {
    let mark = directory.join(MARK);
    if mark.exists() {
        return Ok(());
    }
    let failed = || format!("cannot use {}", directory.display());
    let is_empty = match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).context(Class::Storage, failed),
    };
    if is_empty {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).context(Class::Storage, failed)?;
        return std::fs::write(&mark, "Made by `lifeboat setup --try`.\n").context(Class::Storage, failed);
    }
    Err(Error::usage(format!("{} is not empty, and no trial is in it", directory.display()))
        .hint("name a folder that is not there yet: --try DIR"))
}

fn part_of(name: &str) -> Part {
    if name == DRILL { Part::Drill } else { Part::Backup }
}
