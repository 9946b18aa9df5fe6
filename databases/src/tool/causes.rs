//! Why a server or its client fails, as it says itself, with the one thing to do about that cause.

use lifeboat_base::Error;

/// What is said, and what to do about it.
pub(crate) type Cause = (&'static [&'static str], &'static str);

/// What to do about the first cause that fits `said`; `None`: none does.
pub(crate) fn what_to_do(said: &str, causes: &[Cause]) -> Option<&'static str> {
    let fits = |(words, _): &&Cause| words.iter().any(|word| said.contains(word));
    causes.iter().find(fits).map(|(_, hint)| *hint)
}

/// `error` with a hint for its cause, if that is known.
pub(crate) fn explained(error: Error, causes: &[Cause]) -> Error {
    match what_to_do(&error.chain(), causes) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
