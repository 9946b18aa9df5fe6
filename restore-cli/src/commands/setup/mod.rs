//! `setup`: from nothing to a vault that is backed up and drilled, on each machine by one command.
//!
//! - **Every command can be run again**, after a failure at any point: what is there is kept. A
//!   configuration that somebody changed is never replaced.
//! - **No secret is carried by hand or stands in argv.** Machines make their keys where they stay,
//!   and describe themselves in lines of public halves. Keys of the store are asked for, or read
//!   from files or the environment.
//! - **What is pasted is hostile**: lines are bounded and checked, and a root counts only if its
//!   owners signed it and it names the keys that this machine made.
//! - **Stores are tried before the configuration is written**: their keys and their buckets. So are
//!   sources: the file can be read, the socket is there. The rest is tried by `check`, when a role
//!   is there.
//! - **What is in use is not lost**: a configuration with fewer places or others needs `--replace`,
//!   and one with other owners is never written.

mod ask;
mod believe;
mod config_text;
mod join;
mod machine;
mod place;
mod replica_place;
mod restart;
mod sources;
mod steps;
mod store_keys;
mod stores;
mod try_out;
mod vault;

use std::path::PathBuf;

use lifeboat_engine::{Error, Result};

use crate::session::Session;

/// Set this machine up: a backup host, a drill host, or both for a trial on one machine
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    machine: Option<Machine>,
    /// Try Lifeboat on this machine alone, below this directory, with directories as replicas;
    /// needs no root
    #[arg(
        long = "try",
        value_name = "DIR",
        num_args = 0..=1,
        default_missing_value = "lifeboat-trial",
        conflicts_with_all = ["root", "replica", "dry_run"]
    )]
    try_out: Option<PathBuf>,
    #[command(flatten)]
    vault: vault::VaultFlags,
}

#[derive(Debug, clap::Subcommand)]
enum Machine {
    /// Make a backup host's keys here, and print the line that describes it to the owner
    Host(machine::HostArgs),
    /// Make a drill host's keys here, and print the line that describes it to the owner; with
    /// --join, begin to drill what a vault holds
    DrillHost(join::Args),
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    if session.globals.given.is_named() {
        return Err(Error::usage("setup works on this machine, not on a single replica")
            .hint("leave --directory and --s3-… out, and name replicas with --replica"));
    }
    match (&args.machine, &args.try_out) {
        (Some(Machine::Host(args)), _) => machine::host(args, session),
        (Some(Machine::DrillHost(args)), _) => join::run(args, session).await,
        (None, Some(directory)) => try_out::run(directory, &args.vault, session).await,
        (None, None) => vault::run(&args.vault, session).await,
    }
}
