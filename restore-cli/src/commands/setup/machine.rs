//! `setup host`: makes a backup host's keys, and prints the line that describes it. `setup
//! drill-host` without `--join` does the same for a drill host (`join.rs`).

use std::fmt;

use lifeboat_engine::Result;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::line::{self, Line};
use lifeboat_engine::format::root::Pattern;
use lifeboat_engine::keys;
use serde::Serialize;

use super::place::{self, Installation, Part};
use crate::session::Session;

/// How a machine describes itself.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Described {
    /// The machine's name in the vault [default: its host name]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<Name>,
    /// Datasets that it works on: names in which one * stands for any characters; all if left out;
    /// may be repeated
    #[arg(long = "only", value_name = "PATTERN")]
    pub(super) only: Vec<Pattern>,
}

impl Described {
    pub(super) fn name(&self) -> Result<Name> {
        self.name.clone().map_or_else(place::host_name, Ok)
    }

    pub(super) fn datasets(&self) -> Vec<Pattern> {
        if self.only.is_empty() { vec![Pattern::all()] } else { self.only.clone() }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct HostArgs {
    #[command(flatten)]
    described: Described,
}

/// A machine's line, and the words that tell it from others.
#[derive(Serialize)]
pub(super) struct DescribedLine {
    line: String,
    words: String,
}

impl DescribedLine {
    /// # Errors
    /// The line cannot be written.
    pub(super) fn of<L: Line>(described: &L) -> Result<Self> {
        Ok(Self { line: line::write(described)?, words: line::words(described)? })
    }
}

impl fmt::Display for DescribedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

pub(super) fn host(args: &HostArgs, session: &Session) -> Result<()> {
    let at = Installation::of(session, Part::Backup)?;
    let name = args.described.name()?;
    at.make_folders()?;
    let described = keys::enrol_host(&at.keys, &name, args.described.datasets())?;
    tell(session, &at, &DescribedLine::of(&described)?, "backup host")
}

/// Prints the line alone on standard output, and beside it what to do with it.
pub(super) fn tell(session: &Session, at: &Installation, told: &DescribedLine, what: &str) -> Result<()> {
    session.out.asked_about(format!(
        "the keys of this {what} are in {}, and stay here. Give this line to the owner, who compares its words: {}",
        at.keys.display(),
        told.words
    ));
    session.out.result(told)
}
