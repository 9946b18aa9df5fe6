//! Whether a warden looks at a dataset for the first time.
//!
//! Whoever sees something for the first time believes it. So where the memory of a dataset is lost
//! or damaged ([`FirstSights`]), the warden's own log tells whether it has looked before. If so, or
//! if nobody can tell, nothing is deleted and nothing remembered, until it is told to begin anew.

use lifeboat_base::{Error, Result};
use lifeboat_format::log::LogKind;

use super::Prune;
use crate::catalog::first_sights::{FirstSights, how_to_begin_anew};
use crate::log::LogReader;
use crate::witness::has_warden_looked;

impl Prune<'_> {
    /// What this warden saw first of the dataset. With an error, it stands in for what is lost.
    pub(super) async fn memory(&self) -> (FirstSights, Option<Error>) {
        let permitted = match FirstSights::read(self.state, &self.dataset.name) {
            Ok(Some(first)) => return (first, None),
            Ok(None) => self.permit_first_look().await,
            Err(error) => Err(error),
        };
        match permitted {
            Ok(()) => (FirstSights::default(), None),
            Err(error) => (FirstSights::lost(), Some(error)),
        }
    }

    /// # Errors
    /// This is not the first look of this warden at the dataset, or nobody can tell.
    async fn permit_first_look(&self) -> Result<()> {
        let dataset = &self.dataset.name;
        let log = self.keys.trust.log_of(LogKind::Wardens, &self.keys.signer.public());
        let log = log.ok_or_else(|| Error::keys("the root does not name this machine as its warden"))?;
        let reader = LogReader { vault: &self.keys.vault, trust: &self.keys.trust };
        let looked = has_warden_looked(&reader, &log, self.replicas, dataset).await;
        let lost = match looked {
            Ok(false) => return Ok(()),
            Ok(true) => Error::integrity(format!("log {log} tells of earlier looks at {dataset}")),
            Err(error) => error.within(format!("nobody can tell whether this warden has looked at {dataset} before")),
        };
        let lost = lost.within(format!("what this warden saw first of {dataset} is not in its state directory"));
        Err(lost.hint(how_to_begin_anew(dataset)))
    }
}
