//! Why a run starts.

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
