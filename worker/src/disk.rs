//! The disk under a throw-away database: whether there is room for one, and whether it became full.
//!
//! - **Before anything is made**, [`require`] refuses what is forecast to need more than is free.
//! - **Whoever meets a full disk** says so, or says only that a server has gone. So what fails is
//!   told as a full disk if it says so itself, or if almost nothing was free while it worked.
//! - **A server that waits for room**, as MariaDB does for tables of some engines, would wait for
//!   ever: nobody makes room for a drill. It is not waited for.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use lifeboat_base::{Error, Result, disk};
use lifeboat_databases::proof::CheckResult;
use tokio::time::Instant;

/// What to do where a throw-away database has too little room.
const DRILL_DISK_REMEDY: &str =
    "set TMPDIR to a directory on a larger disk (under systemd, that of lifeboat-worker@.service), or enlarge this one";
/// Who fails while less is free has met a full disk: PostgreSQL asks for 16 MiB of WAL at once, and
/// gives back what it got of them.
const ALMOST_FULL_BYTES: u64 = 16 << 20;
/// Less is no room for a single page and its index.
const FULL_DISK_BYTES: u64 = 64 << 10;
/// How often the disk is looked at. What failed may have given room back when it says so.
const DISK_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What goes on for longer on a full disk waits for room.
const MAX_FULL_DISK_TIME: Duration = Duration::from_secs(30);

/// Makes sure that `needed` bytes are free on the disk of `directory`, where a throw-away database
/// is to be made.
///
/// # Errors
/// [`lifeboat_base::Class::Configuration`]: they are not. What cannot be told is no error.
pub fn require(directory: &Path, needed: u64) -> Result<()> {
    let Some(free) = disk::free(directory).ok().filter(|free| *free < needed) else { return Ok(()) };
    let (place, free, needed) = (disk::mounted_at(directory), free >> 20, needed.div_ceil(1 << 20));
    let what = format!(
        "the disk at {} has {free} MiB free, and the drill is forecast to need {needed} MiB there: it was not started",
        place.display()
    );
    Err(Error::configuration(what).hint(DRILL_DISK_REMEDY))
}

/// Does work that fills `directory`. It is dropped if it waits for room.
///
/// # Errors
/// Those of the work; [`lifeboat_base::Class::Storage`] if the disk was full.
pub(crate) async fn watched<T>(directory: &Path, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    let (mut least, mut full_since) = (u64::MAX, None);
    loop {
        let done = tokio::select! {
            result = &mut work => Some(result),
            () = tokio::time::sleep(DISK_LOOK_INTERVAL) => None,
        };
        let free = disk::free(directory).unwrap_or(u64::MAX);
        least = least.min(free);
        if let Some(result) = done {
            return result.map_err(|error| told(directory, error, least));
        }
        let now = Instant::now();
        full_since = (free < FULL_DISK_BYTES).then(|| full_since.unwrap_or(now));
        if full_since.is_some_and(|since| now.duration_since(since) > MAX_FULL_DISK_TIME) {
            let waits = Error::failed("the throw-away database waited for room");
            return Err(disk::full(directory, waits, DRILL_DISK_REMEDY));
        }
    }
}

/// A check that a full disk made fail says nothing about the snapshot.
///
/// # Errors
/// [`lifeboat_base::Class::Storage`].
pub(crate) fn unless_full(directory: &Path, checks: Vec<CheckResult>) -> Result<Vec<CheckResult>> {
    match checks.iter().find(|check| !check.passed && disk::tells_of_full_disk(&check.detail)) {
        Some(CheckResult { check, detail, .. }) => {
            let failed = Error::failed(format!("check `{check}` failed: {detail}"));
            Err(disk::full(directory, failed, DRILL_DISK_REMEDY))
        }
        None => Ok(checks),
    }
}

/// An error of work during which `least` bytes were free.
fn told(directory: &Path, error: Error, least: u64) -> Error {
    if disk::can_cause(&error) && (least < ALMOST_FULL_BYTES || disk::tells_of_full_disk(&error.chain())) {
        return disk::full(directory, error, DRILL_DISK_REMEDY);
    }
    error
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lifeboat_base::Class;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn only_what_fits_is_begun() {
        let place = tempfile::tempdir().unwrap();
        assert!(require(place.path(), 0).is_ok() && require(Path::new("/nowhere"), GIB).is_ok());
        let error = require(place.path(), u64::MAX / 2).unwrap_err();
        assert_eq!(error.class(), Class::Configuration);
        assert!(error.message().contains("MiB free") && error.hint_text().unwrap().contains("TMPDIR"), "{error:?}");
    }

    #[test]
    fn what_fails_on_a_full_disk_is_told_as_that_unless_it_proves_something_wrong() {
        let place = Path::new("/");
        let class = |error: Error, least| told(place, error, least).class();
        assert_eq!(class(Error::source_failed("the server closed the connection"), 0), Class::Storage);
        assert_eq!(class(Error::source_failed("initdb: No space left on device"), GIB), Class::Storage);
        assert_eq!(class(Error::source_failed("permission denied"), GIB), Class::Source);
        assert_eq!(class(Error::integrity("the stream is cut off"), 0), Class::Integrity);
        assert_eq!(class(Error::keys("no key"), 0), Class::Keys);
        let check = |passed, detail: &str| CheckResult { check: "a".to_owned(), passed, detail: detail.to_owned() };
        for sound in [check(true, "No space left on device"), check(false, "3 is not 4")] {
            assert_eq!(unless_full(place, vec![sound]).unwrap().len(), 1);
        }
        let full = [check(true, "ran"), check(false, "could not write: No space left on device")];
        assert_eq!(unless_full(place, full.to_vec()).unwrap_err().class(), Class::Storage);
    }

    #[tokio::test]
    async fn work_that_ends_gives_what_it_gave() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(watched(place.path(), async { Ok(7) }).await.unwrap(), 7);
    }
}
