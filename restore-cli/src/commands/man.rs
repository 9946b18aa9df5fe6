//! `man`: the manual, from the definition of the command line.

use std::path::PathBuf;

use lifeboat_engine::{Class, Error, Result};

use crate::cli;
use crate::session::{Session, storage};

/// Print the manual, or write one page a command into a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the pages go, such as /usr/local/share/man/man1; created if missing
    directory: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<()> {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(cli::command())
            .render(&mut page)
            .map_err(|error| Error::new(Class::Failed, "cannot write the manual").because(error))?;
        return session.out.bytes(&page);
    };
    let write = || {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(cli::command(), directory)
    };
    write().map_err(storage(format!("cannot write the manual into {}", directory.display())))
}
