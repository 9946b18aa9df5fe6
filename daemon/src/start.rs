//! Why a run starts, and how it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Who wants a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The schedule. A deputy leaves it to the leader.
    Scheduled,
    /// The schedule, because the run before it has failed.
    Retry,
    /// An operator. A deputy refuses.
    Asked,
    /// An operator who knows that the leader is gone, or is to lead no more.
    Takeover,
}

impl Start {
    /// As the history of runs tells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "schedule",
            Self::Retry => "retry",
            Self::Asked => "operator",
            Self::Takeover => "takeover",
        }
    }
}

/// Stops a run, unless its commit has begun. After the commit, it stops the prune that follows.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub token: CancellationToken,
    /// Stops the prune alone. Fires with `token`, too.
    pub prune: CancellationToken,
    /// Fires when the backup has its report: all that may follow is the prune.
    pub backed_up: CancellationToken,
    by_operator: Arc<AtomicBool>,
}

impl Stop {
    /// An operator stops it: it does not start again by itself before its time.
    pub(crate) fn for_operator(&self) {
        self.by_operator.store(true, Ordering::SeqCst);
        self.token.cancel();
    }

    /// Whether an operator has stopped it.
    pub(crate) fn is_by_operator(&self) -> bool {
        self.by_operator.load(Ordering::SeqCst)
    }
}

impl Default for Stop {
    fn default() -> Self {
        CancellationToken::new().into()
    }
}

impl From<CancellationToken> for Stop {
    fn from(token: CancellationToken) -> Self {
        let (prune, backed_up) = (token.child_token(), CancellationToken::new());
        Self { token, prune, backed_up, by_operator: Arc::default() }
    }
}
