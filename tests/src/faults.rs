//! Which kinds of fault a test tries: those that differ most, or all of them if
//! `LIFEBOAT_EVERY_FAULT` is set, as it is for `make torture`.

use std::time::Duration;

use lifeboat_engine::store::Failure;

/// Whether all are tried.
#[must_use]
pub fn takes_every_fault() -> bool {
    std::env::var_os("LIFEBOAT_EVERY_FAULT").is_some()
}

/// These, or all kinds. Calls that hang do so for `hang`.
#[must_use]
pub fn kinds(few: &[Failure], hang: Duration) -> Vec<Failure> {
    if takes_every_fault() { Failure::all(hang) } else { few.to_vec() }
}
