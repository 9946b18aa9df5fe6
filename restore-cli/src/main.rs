//! `lifeboat`: lists, restores, verifies, drills and prunes what lifeboatd backed up.
//!
//! It needs a replica, an identity and trusted signers, and nothing of the daemon's: a restore
//! works when the backup host is gone. `run` reads the environment; no other module does.

mod access;
mod as_unit;
mod cli;
mod commands;
mod deletion;
mod exit;
mod flags;
mod given_replica;
mod html;
mod human;
mod lines;
mod output;
mod progress;
mod recording;
#[allow(clippy::disallowed_methods, reason = "`run` reads the environment, and nobody else")]
mod run;
mod server;
mod session;
mod shell;
mod table;
mod textfile;
mod when;

#[cfg(test)]
mod documents;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::run(std::env::args_os())
}
