//! What the role that loads does not load: values of sequences, which the superuser sets by
//! statements written anew, and large objects, which another role makes and fills.

use lifeboat_base::Result;

use super::contents::{Change, Contents, ContentsEntry};
use super::ownership::{emit, is_grant};
use super::step_list::{StepList, StepTemplate};
use super::tokens::{Reading, Statements, Token};

/// The kind of an entry that sets a sequence.
pub(super) const SEQUENCE_VALUE: &str = "SEQUENCE SET";

/// The values of an archive's sequences. What is not understood goes to `strange`.
///
/// # Errors
/// There are more than fit into memory.
pub(super) fn values(contents: &Contents, strange: &mut Vec<String>) -> Result<StepList> {
    values_of(contents, |_| true, strange)
}

/// As [`values()`], of some of the entries.
///
/// # Errors
/// As [`values()`].
pub(super) fn values_of(
    contents: &Contents,
    wanted: impl Fn(&ContentsEntry) -> bool,
    strange: &mut Vec<String>,
) -> Result<StepList> {
    let mut values = StepList::default();
    for entry in contents.of_kind(SEQUENCE_VALUE).filter(|entry| wanted(entry)) {
        match value(contents.get(&entry.definition)) {
            Some(sql) => values.push(StepTemplate::one(contents.name(entry), sql))?,
            None => strange.push(contents.name(entry)),
        }
    }
    Ok(values)
}

/// The statement that sets a sequence: `SELECT pg_catalog.setval('s.q', 5, true);`
fn value(definition: &[u8]) -> Option<Vec<u8>> {
    let mut statements = Statements::new(definition);
    let (Some(statement), None) = (statements.next(), statements.next()) else { return None };
    let tokens = statement.tokens?;
    let mut reading = Reading(&tokens);
    reading.words(&["SELECT", "pg_catalog"]).then_some(())?;
    reading.mark(b'.').then_some(())?;
    reading.words(&["setval"]).then_some(())?;
    reading.mark(b'(').then_some(())?;
    reading.text()?;
    reading.mark(b',').then_some(())?;
    reading.mark(b'-');
    matches!(reading.next()?, Token::Number(_)).then_some(())?;
    reading.mark(b',').then_some(())?;
    (reading.words(&["true"]) || reading.words(&["false"])).then_some(())?;
    reading.mark(b')').then_some(())?;
    reading.end()?;
    Some(emit(&tokens))
}

/// The beginning of an archive without owners, grants and large objects. Older archives make these
/// with the definitions.
pub(super) fn without_large_objects(contents: &Contents) -> Vec<u8> {
    contents.changed(|entry| Change {
        owner: Some(Vec::new()),
        definition: (is_grant(contents, entry) || is_of_large_object(contents, entry)).then(Vec::new),
    })
}

/// Whether an entry makes or fills large objects, or speaks of one.
pub(super) fn is_of_large_object(contents: &Contents, entry: &ContentsEntry) -> bool {
    match contents.get(&entry.kind) {
        b"BLOB" | b"BLOBS" | b"BLOB METADATA" => true,
        b"COMMENT" | b"SECURITY LABEL" => contents.get(&entry.tag).starts_with(b"LARGE OBJECT"),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_sequence_is_set_by_nothing_else() {
        let set = |text: &str| value(text.as_bytes()).map(|sql| String::from_utf8(sql).unwrap());
        let good = "SELECT pg_catalog.setval('s.\"it''s\"', -5, false);\n";
        assert_eq!(set(good).as_deref(), Some("SELECT pg_catalog . setval ( 's.\"it''s\"' , - 5 , false )"));
        for bad in [
            "SELECT setval('s.q', 5, true);",
            "SELECT pg_catalog.setval('s.q', hers.take(), true);",
            "SELECT pg_catalog.setval('s.q', 5, true), hers.take();",
            "SELECT pg_catalog.setval('s.q', 5, true); SELECT hers.take();",
            "SELECT pg_catalog.nextval('s.q', 5, true);",
        ] {
            assert_eq!(set(bad), None, "{bad}");
        }
    }
}
