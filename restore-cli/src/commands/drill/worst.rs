//! Which of several errors decides the exit code.

use lifeboat_engine::{Class, Error};

/// Classes of errors, the worst first: what was proved to be wrong comes before what could not be
/// tried, and both before what merely took too long.
const WORST_FIRST: [Class; 10] = [
    Class::Integrity,
    Class::Keys,
    Class::Source,
    Class::Storage,
    Class::Configuration,
    Class::Failed,
    Class::Usage,
    Class::Unknown,
    Class::Partial,
    Class::ObjectiveMissed,
];

/// The worse of two errors; of two of a class, the first.
pub(super) fn worse(one: Option<Error>, other: Option<Error>) -> Option<Error> {
    let rank = |error: &Error| WORST_FIRST.iter().position(|class| *class == error.class());
    match (one, other) {
        (Some(one), Some(other)) if rank(&other) < rank(&one) => Some(other),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_worst_code_is_what_was_proved_to_be_wrong() {
        let of = |classes: &[Class]| {
            let errors = classes.iter().map(|class| Some(Error::new(*class, class.as_str())));
            errors.fold(None, worse).map(|error| error.class())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[Class::ObjectiveMissed, Class::Failed]), Some(Class::Failed));
        assert_eq!(of(&[Class::Integrity, Class::Keys, Class::ObjectiveMissed]), Some(Class::Integrity));
        assert_eq!(of(&[Class::Storage, Class::Source]), Some(Class::Source));
        assert_eq!(worse(Some(Error::failed("x")), None).unwrap().class(), Class::Failed);
    }
}
