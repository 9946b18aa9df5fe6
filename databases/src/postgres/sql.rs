//! SQL as text: how names and strings are quoted, and how answers are read.

/// Lists the databases that can be dumped. One that was left half-dropped (limit -2) cannot.
pub(crate) const DATABASES: &str =
    "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 ORDER BY datname";

/// Between two fields of an answer.
pub(crate) const FIELD_SEPARATOR: &str = "\u{1f}";

/// The rows of an answer of one column.
pub(crate) fn rows(answer: &str) -> Vec<String> {
    answer.split('\0').filter(|row| !row.is_empty()).map(str::to_owned).collect()
}

/// The name of a database as a connection string. A bare name with `=` in it would be taken for
/// one.
pub(crate) fn conninfo(database: &str) -> String {
    format!("dbname={}", conninfo_value(database))
}

/// A value in a connection string.
pub(crate) fn conninfo_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A name as a quoted SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a quoted SQL string.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name in any encoding as a quoted SQL identifier.
pub(crate) fn quoted_name(name: &[u8]) -> Vec<u8> {
    [&b"\""[..], &doubled(name, b"\""), b"\""].concat()
}

/// A text in any encoding as a quoted SQL string, whatever `standard_conforming_strings` is.
pub(crate) fn quoted_text(text: &[u8]) -> Vec<u8> {
    let begin: &[u8] = if text.contains(&b'\\') { b"E'" } else { b"'" };
    [begin, &doubled(text, b"'\\"), b"'"].concat()
}

fn doubled(text: &[u8], special: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|byte| std::iter::repeat_n(*byte, 1 + usize::from(special.contains(byte)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_end_their_quotes() {
        assert_eq!(quoted_name(br#"a"b'\"#), br#""a""b'\""#);
        assert_eq!(quoted_text(br#"a"b'"#), br#"'a"b'''"#);
        assert_eq!(quoted_text(br"a\'"), br"E'a\\'''");
    }
}
