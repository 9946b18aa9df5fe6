//! One file for each command: its flags, what it does, how its result reads.

pub(crate) mod acknowledge;
pub(crate) mod audit;
mod audit_export;
mod audit_view;
pub(crate) mod cancel;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod drill;
mod drill_view;
pub(crate) mod init;
pub(crate) mod list;
pub(crate) mod man;
mod opened;
pub(crate) mod owner;
pub(crate) mod prune;
pub(crate) mod repair;
mod repair_clock;
pub(crate) mod restore;
pub(crate) mod root;
mod root_found;
mod root_request;
pub(crate) mod show;
pub(crate) mod takeover;
pub(crate) mod trigger;
pub(crate) mod undelete;
pub(crate) mod verify;
pub(crate) mod witness;
