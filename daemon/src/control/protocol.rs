//! The messages of the control socket: one JSON document per line, in each direction.

use chrono::{DateTime, Utc};
pub(crate) use lifeboat_engine::control::Answer;
use lifeboat_engine::format::id::{Name, SnapshotId};
use serde::{Deserialize, Serialize};

use crate::live::StatusReport;
use crate::run_report::RunReport;
use crate::words;

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
    /// Start no backup by schedule for a while.
    Pause {
        /// Its name.
        dataset: Name,
        /// For how long.
        seconds: u64,
        /// Why.
        #[serde(default)]
        why: Option<String>,
    },
    /// End a pause.
    Resume {
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

/// The answer to [`Request::Pause`].
#[derive(Debug, Serialize)]
pub(crate) struct Paused {
    pub dataset: Name,
    pub until: DateTime<Utc>,
}

/// The answer to [`Request::Resume`].
#[derive(Debug, Serialize)]
pub(crate) struct Resumed {
    pub dataset: Name,
    /// When the pause would have ended. `None`: it was not paused.
    pub paused_until: Option<DateTime<Utc>>,
}

impl From<Paused> for Answer {
    fn from(report: Paused) -> Self {
        let told = format!("no backup of {} starts by schedule until {}", report.dataset, words::time(report.until));
        Self::good(&report, told)
    }
}

impl From<Resumed> for Answer {
    fn from(report: Resumed) -> Self {
        let told = if report.paused_until.is_some() { "the pause has ended" } else { "it was not paused" };
        let told = format!("dataset {}: {told}", report.dataset);
        Self::good(&report, told)
    }
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
