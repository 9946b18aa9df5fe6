//! Exit codes: the one table behind `--help` and the manual of `lifeboat`, and what it makes of the
//! errors of the daemon.

use lifeboat_engine::Class;

const CLASSES: [(Class, &str); 10] = [
    (Class::Failed, "failed, or cancelled"),
    (Class::Usage, "the command line asks for something impossible"),
    (Class::Configuration, "the configuration, or what it names, is wrong"),
    (Class::Source, "a database, dump tool or restore target failed"),
    (Class::Storage, "a replica or the local disk failed"),
    (Class::Integrity, "stored data is missing, damaged, forged or does not prove equal"),
    (Class::Keys, "a key is missing, wrong, unreadable or not trusted"),
    (Class::ObjectiveMissed, "everything worked, but outside the objectives"),
    (Class::Partial, "a backup was committed, but lacks a database"),
    (Class::Unknown, "a backup may or may not be committed: a replica did not answer"),
];

/// As a shell reports a process that SIGINT ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// The section of `--help` and of the manual.
pub(crate) fn help() -> String {
    let mut text = "Exit codes:\n  0  success".to_owned();
    for (class, meaning) in CLASSES {
        text.push_str(&format!("\n  {}  {meaning}", class.exit_code()));
    }
    text.push_str(&format!("\n  {INTERRUPTED}  ended at once by a second signal"));
    text
}

/// The class of a word as in [`Class::as_str`]; an unknown word is a plain failure.
pub(crate) fn class_of(word: &str) -> Class {
    CLASSES.iter().map(|(class, _)| *class).find(|class| class.as_str() == word).unwrap_or(Class::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_explained_under_its_code_and_found_by_its_word() {
        for (at, (class, meaning)) in CLASSES.iter().enumerate() {
            assert_eq!(usize::from(class.exit_code()), at + 1);
            assert!(help().contains(&format!("\n  {}  {meaning}", at + 1)));
            assert_eq!(class_of(class.as_str()), *class);
        }
        assert_eq!(class_of("from a newer daemon"), Class::Failed);
    }
}
