//! `--once`: runs now and ends with the worst result. Needs no daemon, and gets along with one.

use lifeboat_engine::flow::backup::BackupReport;
use lifeboat_engine::id::Name;
use lifeboat_engine::{Error, Result};
use tokio_util::sync::CancellationToken;

use crate::installation::Installation;
use crate::runner;
use crate::status::StatusBook;

/// Backs up each of `datasets` (none named: all), telling `tell` each result.
///
/// # Errors
/// The one with the highest exit code; the others were told.
pub(crate) async fn once(
    installation: &Installation,
    datasets: &[Name],
    cancel: &CancellationToken,
    mut tell: impl FnMut(&Name, &Result<BackupReport>),
) -> Result<()> {
    let all: Vec<Name> = installation.config.datasets.iter().map(|dataset| dataset.name.clone()).collect();
    let datasets = if datasets.is_empty() { &all } else { datasets };
    if datasets.is_empty() {
        return Err(Error::configuration("the configuration has no [[dataset]]")
            .hint("there is nothing to back up on this host"));
    }
    let book = StatusBook::open(&installation.state);
    let mut worst: Option<Error> = None;
    for dataset in datasets {
        let result = runner::run(installation, dataset, &book, cancel).await;
        tell(dataset, &result);
        if let Err(error) = result
            && worst.as_ref().is_none_or(|worst| worst.class().exit_code() < error.class().exit_code())
        {
            worst = Some(error);
        }
        if cancel.is_cancelled() {
            break;
        }
    }
    worst.map_or(Ok(()), Err)
}
