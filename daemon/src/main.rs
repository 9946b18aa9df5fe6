//! `lifeboatd`: backs up databases on schedule, keeps every replica complete, and serves metrics.
//!
//! `scheduler` decides when, `runner` runs, `status` remembers, `metrics` shows; `daemon` is the
//! loop around them. `run` reads the environment; no other module does, save for systemd's own
//! variables in `notify`.

mod cli;
mod control;
mod daemon;
mod drills;
mod endpoints;
mod group_status;
mod groups;
mod guardian;
mod held;
mod http;
mod installation;
mod level;
mod live;
mod log;
mod man;
mod metrics;
mod notify;
mod once;
mod pauses;
mod pruning;
mod recorded;
#[allow(clippy::disallowed_methods, reason = "`run` reads the environment, and nobody else")]
mod run;
mod run_report;
mod runner;
mod runs;
mod scheduler;
mod scrubber;
mod signals;
mod start;
mod status;
mod summary;
mod tls;
mod turn;
mod upkeep;
mod warden;
mod words;

#[cfg(test)]
mod documents;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod slow;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::run(std::env::args_os())
}
