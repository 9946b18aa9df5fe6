//! `lifeboatd`: schedules backups, keeps replicas complete, serves metrics.
//!
//! `run` reads arguments and environment and prints; no other module does.

mod cli;
mod control;
mod daemon;
mod http;
mod installation;
mod logging;
mod metrics;
mod notify;
mod once;
mod run;
mod runner;
mod scheduler;
mod status;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::run()
}
