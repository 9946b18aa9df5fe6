//! The harness of the whole-system tests and of the demo: real servers, real tools, real programs.

pub mod bait;
pub mod booted;
pub mod by_hand;
pub mod checksum;
pub mod corpus;
pub mod crash_proxy;
pub mod fake_clock;
pub mod fuzz;
pub mod host;
pub mod liar;
pub mod operator;
pub mod ports;
pub mod postgres;
pub mod programs;
pub mod proxy;
pub mod recovery;
pub mod runbook;
pub mod s3;
pub mod sample;
pub mod streams;
pub mod tally;
pub mod tls;
pub mod tools;
pub mod vault;
pub mod vectors;
pub mod work;
