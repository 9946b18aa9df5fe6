//! `man`: the manual, from the definition of the command line.

use std::path::PathBuf;

use lifeboat_engine::base::Context;
use lifeboat_engine::{Class, Result};

use crate::session::Session;

/// Print the manual, or write one page for each command into a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory for the pages, such as /usr/local/share/man/man1; created if missing
    directory: Option<PathBuf>,
}

/// `program` is the whole command line.
pub(crate) fn run(args: &Args, session: &Session, program: clap::Command) -> Result<()> {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(program).render(&mut page).context(Class::Failed, || "cannot write the manual")?;
        return session.out.bytes(&page);
    };
    let write = || {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(program, directory)
    };
    write().context(Class::Storage, || format!("cannot write the manual into {}", directory.display()))
}
