//! Adapts an archive to a server that lacks some of its roles.
//!
//! An object whose owner does not exist belongs to whoever loads it, and a grant to or by a role
//! that does not exist is left out. Statements that need the role for what they mean, such as
//! policies and user mappings, stay as they are, and fail.

use std::collections::BTreeSet;

use super::contents::{Change, Contents};
use super::tokens::{Reading, Statements, Token};

/// The roles of a server, and which of an archive's it lacks.
#[derive(Debug, Default)]
pub(crate) struct KnownRoles {
    there: BTreeSet<String>,
    lacking: BTreeSet<String>,
}

impl KnownRoles {
    pub(crate) fn new(there: BTreeSet<String>) -> Self {
        Self { there, lacking: BTreeSet::new() }
    }

    /// The roles that archives named and the server lacks.
    pub(crate) fn lacking(&self) -> &BTreeSet<String> {
        &self.lacking
    }

    /// Whether the server lacks a role. A name that cannot be compared is taken for one that it
    /// has: then the server decides.
    pub(crate) fn lacks(&mut self, role: &[u8], comparable: bool) -> bool {
        let Ok(name) = std::str::from_utf8(role) else { return false };
        let lacks = !name.is_empty() && (comparable || name.is_ascii()) && !self.there.contains(name);
        if lacks && !self.lacking.contains(name) {
            self.lacking.insert(name.to_owned());
        }
        lacks
    }

    /// The beginning of an archive as it suits the server.
    pub(crate) fn adapt(&mut self, contents: &Contents) -> Vec<u8> {
        let comparable = contents.is_comparable();
        contents.changed(|entry| {
            let mut change = Change::default();
            if self.lacks(contents.get(&entry.owner), comparable) {
                change.owner = Some(Vec::new());
            }
            if matches!(contents.get(&entry.kind), b"ACL" | b"DEFAULT ACL") {
                let text = contents.get(&entry.definition);
                change.definition = self.without_lacking(text, comparable);
            }
            change
        })
    }

    /// The statements of a text that name no role that the server lacks; `None` if all do.
    fn without_lacking(&mut self, text: &[u8], comparable: bool) -> Option<Vec<u8>> {
        let (mut kept, mut from) = (Vec::new(), 0);
        for statement in Statements::new(text) {
            let roles = statement.tokens.as_deref().map(roles).unwrap_or_default();
            let lacks: Vec<bool> = roles.iter().map(|role| self.lacks(role, comparable)).collect();
            if lacks.contains(&true) {
                kept.extend_from_slice(&text[from..statement.place.start]);
                from = statement.place.end;
            }
        }
        kept.extend_from_slice(&text[from..]);
        (from > 0).then_some(kept)
    }
}

/// The roles that a statement of grants names: who grants, for whom, and who is granted to.
pub(crate) fn roles(tokens: &[Token]) -> Vec<&[u8]> {
    let after = |words: &[&str]| {
        (0..tokens.len()).find_map(|at| {
            let mut reading = Reading(&tokens[at..]);
            if reading.words(words) { reading.role() } else { None }
        })
    };
    // The last `TO` or `FROM`: names before it may be of objects.
    let last =
        tokens.iter().rposition(|token| [&b"TO"[..], b"FROM"].iter().any(|word| *token == Token::Word(word.to_vec())));
    let grantee = last.and_then(|at| Reading(&tokens[at + 1..]).role());
    [after(&["SESSION", "AUTHORIZATION"]), after(&["FOR", "ROLE"]), grantee].into_iter().flatten().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn grants_of_roles_that_are_lacking_are_left_out() {
        let mut roles = KnownRoles::new(BTreeSet::from(["joe".to_owned(), "b c".to_owned()]));
        let text = b"REVOKE ALL ON TABLE \"TO x\" FROM joe;\nGRANT SELECT(a) ON TABLE t TO ann;\nGRANT ALL ON TABLE t TO \"b c\" WITH GRANT OPTION;\nGRANT SELECT ON TABLE t TO PUBLIC;\n\
            SET SESSION AUTHORIZATION bob;\nGRANT SELECT ON TABLE t TO joe;\nRESET SESSION AUTHORIZATION;\nALTER DEFAULT PRIVILEGES FOR ROLE eve IN SCHEMA s GRANT SELECT ON TABLES TO joe;\n";
        let kept = String::from_utf8(roles.without_lacking(text, true).unwrap()).unwrap();
        let kept: Vec<&str> = kept.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(
            kept,
            [
                "REVOKE ALL ON TABLE \"TO x\" FROM joe;",
                "GRANT ALL ON TABLE t TO \"b c\" WITH GRANT OPTION;",
                "GRANT SELECT ON TABLE t TO PUBLIC;",
                "GRANT SELECT ON TABLE t TO joe;",
                "RESET SESSION AUTHORIZATION;"
            ]
        );
        assert_eq!(roles.lacking().iter().map(String::as_str).collect::<Vec<_>>(), ["ann", "bob", "eve"]);
        assert_eq!(roles.without_lacking(b"GRANT SELECT ON TABLE t TO joe;\n", true), None);
    }

    #[test]
    fn a_name_that_cannot_be_compared_is_left_to_the_server() {
        let mut roles = KnownRoles::default();
        assert!(!roles.lacks("grün".as_bytes(), false) && !roles.lacks(b"gr\xfcn", true) && !roles.lacks(b"", true));
        assert!(roles.lacks("grün".as_bytes(), true) && roles.lacks(b"joe", false));
    }
}
