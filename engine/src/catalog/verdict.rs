//! What the answers of replicas tell of an object: who signed it, and whether it is known to be
//! missing or damaged.

use lifeboat_base::{Class, Error};

/// What replicas tell of who signed an object. Of several, the last of this order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signed {
    /// By a signer that is not trusted, wherever it is.
    ByStrangers,
    /// By nobody.
    ByNobody,
    /// A replica failed, or the object is longer than may be held here. It may well be signed.
    Unknown,
    /// By a trusted signer.
    Trusted,
}

impl Signed {
    /// What it means that a replica did not return the object signed.
    pub(crate) fn of(error: &Error) -> Self {
        match error.class() {
            Class::Keys => Self::ByStrangers,
            Class::Integrity => Self::ByNobody,
            _ => Self::Unknown,
        }
    }
}

/// Whether a replica has answered, and what it returned for an object is missing, damaged or not
/// signed. Any other error says nothing about the object: it may be there, whole.
pub(crate) fn is_verdict(error: &Error) -> bool {
    matches!(error.class(), Class::Integrity | Class::Keys)
}

/// Combines the errors of several replicas. The result has the gravest class of these errors, and
/// the hint of the first error of that class.
pub(crate) fn combine(what: String, errors: &[Error]) -> Error {
    let gravity = |class: Class| match class {
        Class::Keys => 3,
        Class::Integrity => 2,
        Class::Storage => 1,
        _ => 0,
    };
    let class = errors.iter().map(Error::class).max_by_key(|class| gravity(*class)).unwrap_or(Class::Integrity);
    let hint =
        errors.iter().find(|error| error.class() == class).and_then(|error| error.hint_text().map(str::to_owned));
    let reasons: Vec<String> = errors.iter().map(Error::chain).collect();
    let combined = Error::new(class, what);
    let combined = if reasons.is_empty() { combined } else { combined.because(reasons.join("; ")) };
    match hint {
        Some(hint) => combined.hint(hint),
        None => combined,
    }
}

/// As [`combine`], of looks for one object. If one of them failed, the object may be there, whole:
/// then this is no verdict, whatever the others found.
pub(crate) fn combine_looks(what: String, errors: &[Error]) -> Error {
    let combined = combine(what, errors);
    let Some(failed) = errors.iter().find(|error| !is_verdict(error)) else { return combined };
    let error = Error::new(failed.class(), combined.chain());
    failed.hint_text().map(str::to_owned).into_iter().fold(error, Error::hint)
}
