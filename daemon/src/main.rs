//! `lifeboatd`: captures databases on schedule, keeps every replica complete, serves metrics.
//!
//! `run` reads the environment; no other module does.

mod control;
mod http;
mod installation;
mod live;
mod metrics;
mod notify;
mod runner;
mod scheduler;
mod status;
mod words;

#[cfg(test)]
mod sample;

fn main() {}
