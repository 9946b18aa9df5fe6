//! Names of streams, each of which is a path below a folder. See "Names" in `FORMAT.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

const MAX_NAME_BYTES: usize = 1024;

/// Whether a stream may have this name.
#[must_use]
pub fn is_legal(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && !name.chars().any(char::is_control)
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The names of the streams of one snapshot.
#[derive(Debug, Default)]
pub struct StreamNames(BTreeSet<String>);

impl StreamNames {
    /// Takes one more name; `false` if it is not legal, if it is taken, or if it is a folder of
    /// another one or the other way round.
    pub fn insert(&mut self, name: &str) -> bool {
        let below = format!("{name}/");
        let is_folder = self.0.range(below.clone()..).next().is_some_and(|after| after.starts_with(&below));
        let mut folders = name.match_indices('/').map(|(at, _)| &name[..at]);
        is_legal(name) && !is_folder && !folders.any(|folder| self.0.contains(folder)) && self.0.insert(name.to_owned())
    }
}

/// `text` as a part of a stream's name: every byte except `A-Z a-z 0-9 - _` becomes `%XX`.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            escaped.push(byte.into());
        } else {
            // Writing into a string cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// The name that a stream of format 1 has in format 2. In format 1, names of databases were not
/// escaped, and a `command` could have any name: one that is not legal is escaped as a whole.
pub(crate) fn of_format_1(engine: &str, name: &str) -> String {
    let escaped = || {
        let (kind, rest) = name.split_once('/').filter(|_| engine == "postgres")?;
        match kind {
            "database" | "schema" | "data" => Some(format!("{kind}/{}", escape(rest))),
            "table" => {
                let mut parts = rest.rsplitn(3, '/');
                let (table, schema, database) = (parts.next()?, parts.next()?, parts.next()?);
                Some(format!("{kind}/{}/{schema}/{table}", escape(database)))
            }
            _ => None,
        }
    };
    let name = escaped().unwrap_or_else(|| name.to_owned());
    if is_legal(&name) { name } else { escape(&name) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_becomes_one_part_of_its_own(text in any::<String>(), other in any::<String>()) {
            let part = escape(&text);
            prop_assert!(!part.contains('/'));
            prop_assert!(text.is_empty() || part.len() > MAX_NAME_BYTES || is_legal(&part));
            prop_assert_eq!(text == other, part == escape(&other));
        }
    }

    #[test]
    fn names_that_are_no_paths_below_a_folder_are_found() {
        let long = "x".repeat(MAX_NAME_BYTES);
        assert!(["globals", "a/b", "...", "a b", "é", &long].iter().all(|name| is_legal(name)));
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a\nb", "a\u{7f}", &format!("{long}x")] {
            assert!(!is_legal(bad), "{bad:?}");
        }
        for (taken, name, good) in [
            (&["a", "b/c"][..], "b/d", true),
            (&["a", "b/c"], "bc", true),
            (&["a", "b/c"], "b.c", true),
            (&["a", "b"], "a", false),
            (&["a/b", "a.c"], "a", false),
            (&["a/b"], "a/b/c", false),
            (&["a/b/c/d"], "a/b", false),
            (&["a"], "a/b/c/d", false),
        ] {
            let mut names = StreamNames::default();
            assert!(taken.iter().all(|name| names.insert(name)), "{taken:?}");
            assert_eq!(names.insert(name), good, "{taken:?} {name}");
        }
    }

    #[test]
    fn streams_of_format_1_get_names_of_format_2() {
        for (engine, name, expected) in [
            ("postgres", "globals", "globals"),
            ("postgres", "database/shop", "database/shop"),
            ("postgres", "database/a/b", "database/a%2Fb"),
            ("postgres", "schema/..", "schema/%2E%2E"),
            ("postgres", "data/50%", "data/50%25"),
            ("postgres", "table/a/b/public/order%20items", "table/a%2Fb/public/order%20items"),
            ("file", "database/a/b", "database/a/b"),
            ("command", "/var/dump", "%2Fvar%2Fdump"),
            ("command", "a//b", "a%2F%2Fb"),
            ("command", "..", "%2E%2E"),
        ] {
            assert_eq!(of_format_1(engine, name), expected);
        }
    }
}
