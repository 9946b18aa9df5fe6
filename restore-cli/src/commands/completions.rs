//! `completions`: a completion script for a shell.

use clap_complete::Shell;
use lifeboat_engine::Result;

use crate::session::Session;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    shell: Shell,
}

/// `program` is the whole command line.
pub(crate) fn run(args: &Args, session: &Session, mut program: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "lifeboat", &mut script);
    session.out.bytes(&script)
}
