//! What may become of a key.

/// What becomes of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is as it was.
    Same,
    /// It is of no kind that belongs to a vault.
    Strange,
    /// It was not there then.
    Newer,
    /// It was deleted.
    Hidden,
    /// It was deleted by a prune.
    Pruned,
    /// What is there now is not valid.
    Overwritten,
    /// What is there now is other than it was, and valid.
    Rewritten,
    /// What was there then is not valid, and has come later than its date: nothing better lies
    /// below it.
    NotValid,
    /// What is there now could not be looked at.
    Unknown(String),
}
