//! The messages of the control socket: one JSON document per line, in each direction.

pub(crate) use lifeboat_engine::control::Answer;
use lifeboat_engine::format::id::{Name, SnapshotId};
use serde::{Deserialize, Serialize};

use crate::live::StatusReport;
use crate::run_report::RunReport;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Request {
    /// Back up now; the answer comes when the run has ended.
    Trigger {
        /// Its name.
        dataset: Name,
    },
    /// Back up now, although another host leads, and lead from then on.
    Takeover {
        /// Its name.
        dataset: Name,
    },
    /// Cancel the backup that runs or waits; the answer comes when it has ended.
    Cancel {
        /// Its name.
        dataset: Name,
    },
    /// Report the state of every dataset and replica.
    Status {},
}

/// The answer to [`Request::Cancel`].
#[derive(Debug, Serialize)]
pub(crate) struct Cancelled {
    pub dataset: Name,
    /// Whether it ran; else it waited.
    pub ran: bool,
    /// The snapshot of the backup, if that was committed and only its prune was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruned_after: Option<SnapshotId>,
}

impl From<RunReport> for Answer {
    fn from(report: RunReport) -> Self {
        Self::good(&report, report.line())
    }
}

impl From<Cancelled> for Answer {
    fn from(report: Cancelled) -> Self {
        let dataset = &report.dataset;
        let told = match (&report.pruned_after, report.ran) {
            (Some(snapshot), _) => {
                format!("the prune of {dataset} was cancelled; its backup has ended before, as snapshot {snapshot}")
            }
            (None, true) => format!("the backup of {dataset} was cancelled, and nothing was committed"),
            (None, false) => format!("the backup of {dataset} does not start this time"),
        };
        Self::good(&report, told)
    }
}

impl From<StatusReport> for Answer {
    fn from(report: StatusReport) -> Self {
        Self::good(&report, report.summary())
    }
}
