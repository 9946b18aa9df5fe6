//! What a reader must know to understand an object: the words of its `requires`. See "Growth" in
//! `FORMAT.md`.
//!
//! A reader ignores fields that it does not know, and refuses an object that requires a word that
//! it does not know. So a newer program adds what an older one may overlook, and requires what it
//! must not.

use lifeboat_base::{Class, Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::strict::{self, Object};

/// The words that this program knows: none so far.
const KNOWN_WORDS: &[&str] = &[];
/// What to do about an object that a newer program wrote.
pub(crate) const NEWER_HINT: &str = "use a newer version of Lifeboat, as the host does that wrote it";
const MAX_WORDS: usize = 64;
const MAX_WORD_BYTES: usize = 64;

/// The words that the reader of an object must know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Requirements(#[serde(deserialize_with = "strict::list::<MAX_WORDS, String, _>")] pub Vec<String>);

impl Requirements {
    /// The first word that this program does not know.
    #[must_use]
    pub fn unknown(&self) -> Option<&str> {
        self.0.iter().map(String::as_str).find(|word| !KNOWN_WORDS.contains(word))
    }

    /// Refuses what are not words; `what` names the object.
    ///
    /// # Errors
    /// [`Class::Integrity`]: it is damaged.
    pub(crate) fn check_form(&self, what: &str) -> Result<()> {
        let legal = |word: &String| {
            (1..=MAX_WORD_BYTES).contains(&word.len())
                && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        };
        let repeated = self.0.iter().enumerate().any(|(at, word)| self.0[..at].contains(word));
        if self.0.len() > MAX_WORDS || repeated || !self.0.iter().all(legal) {
            return Err(Error::integrity(format!("{what} is damaged")).because("`requires` is no list of words"));
        }
        Ok(())
    }

    /// Refuses words that this program does not know; `what` names the object.
    ///
    /// # Errors
    /// [`Class::Integrity`]: the first such word, and what to do. Or these are not words.
    pub(crate) fn check(&self, what: &str) -> Result<()> {
        self.check_form(what)?;
        self.unknown().map_or(Ok(()), |word| {
            Err(Error::integrity(format!("{what} requires `{word}`, which this version of Lifeboat does not know"))
                .hint(NEWER_HINT))
        })
    }
}

/// Reads JSON of which `requires` is checked first, so that what a newer program requires is named
/// even where other fields have changed.
///
/// # Errors
/// [`Class::Integrity`]: `json` is damaged, or requires a word that is not known. `what` names it.
pub(crate) fn read_json<T: for<'a> Deserialize<'a>>(json: &[u8], what: &str) -> Result<T> {
    read_head::<Head>(json, what)?.requires.check(what)?;
    read_head(json, what)
}

/// Reads JSON without a look at what it requires.
pub(crate) fn read_head<T: for<'a> Deserialize<'a>>(json: &[u8], what: &str) -> Result<T> {
    let damaged = || format!("{what} is damaged");
    if strict::is_too_deep(json) {
        return Err(Error::integrity(damaged()).because("it is nested too deep"));
    }
    // Serde does not look at text in fields that it overlooks.
    let json = std::str::from_utf8(json).context(Class::Integrity, damaged)?;
    let Object(value) = serde_json::from_str(json).context(Class::Integrity, damaged)?;
    Ok(value)
}

/// What is read first.
#[derive(Deserialize)]
pub(crate) struct Head {
    pub(crate) requires: Requirements,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[&str]) -> Result<(), String> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Requirements(words).check("a thing").map_err(|error| error.chain())
    }

    #[test]
    fn an_unknown_word_is_refused_by_name() {
        assert_eq!(check(&[]), Ok(()));
        let refused = check(&["holograms", "telepathy"]).err().unwrap_or_default();
        assert!(refused.contains("requires `holograms`"), "{refused}");
    }

    #[test]
    fn what_is_no_word_is_damage() {
        let many: Vec<String> = (0..=MAX_WORDS).map(|n| format!("w{n}")).collect();
        let (long, longer) = ("x".repeat(MAX_WORD_BYTES), "x".repeat(MAX_WORD_BYTES + 1));
        for (words, damaged) in [
            (vec![""], true),
            (vec!["Upper"], true),
            (vec!["two words"], true),
            (vec!["twice", "twice"], true),
            (vec![longer.as_str()], true),
            (vec![long.as_str()], false),
            (many.iter().map(String::as_str).collect(), true),
            (many[1..].iter().map(String::as_str).collect(), false),
        ] {
            let refused = check(&words).err().unwrap_or_default();
            assert_eq!(refused.contains("damaged"), damaged, "{refused}");
        }
    }
}
