//! Names of tables as people type them, and as an archive writes them.

use std::fmt;

use lifeboat_base::{Error, Result};

use super::contents::{Contents, ContentsEntry};
use super::parts::TableName;

/// So many near names are told, …
const MAX_NEAR_NAMES: usize = 5;
/// … or so many of all, if none is near.
const MAX_LISTED_TABLES: usize = 20;

/// Schema and name of a table as they can be typed again.
pub(crate) struct TypedName<'a>(pub(crate) &'a [u8], pub(crate) &'a [u8]);

impl fmt::Display for TypedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (schema, name) = (String::from_utf8_lossy(self.0), String::from_utf8_lossy(self.1));
        let is_odd = |text: &str| text.is_empty() || text.starts_with('"') || text.chars().any(char::is_control);
        if schema.contains('.') || is_odd(&schema) || is_odd(&name) {
            let quoted = |text: &str| super::sql::quoted(text).escape_debug().to_string().replace("\\\"", "\"");
            return write!(f, "{}.{}", quoted(&schema), quoted(&name));
        }
        write!(f, "{schema}.{name}")
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TypedName(self.schema.as_bytes(), self.name.as_bytes()).fmt(f)
    }
}

impl TableName {
    /// `SCHEMA.NAME` as somebody typed it. A part may be quoted as in SQL. Without quotes, all up
    /// to the first dot is the schema, and the rest is the name, in letters as they are.
    pub(crate) fn typed(text: &str) -> Option<Self> {
        let (schema, rest) = match text.strip_prefix('"') {
            Some(quoted) => {
                let (schema, rest) = until_quote(quoted.as_bytes())?;
                (String::from_utf8(schema).ok()?, std::str::from_utf8(rest).ok()?.strip_prefix('.')?)
            }
            None => text.split_once('.').map(|(schema, rest)| (schema.to_owned(), rest))?,
        };
        let name = match rest.strip_prefix('"').map(|quoted| until_quote(quoted.as_bytes())) {
            Some(Some((name, b""))) => String::from_utf8(name).ok()?,
            _ => rest.to_owned(),
        };
        (!schema.is_empty() && !name.is_empty()).then_some(Self { schema, name })
    }

    /// As [`Self::typed`].
    ///
    /// # Errors
    /// A part is missing.
    pub(crate) fn typed_or_refused(text: &str) -> Result<Self> {
        Self::typed(text).ok_or_else(|| {
            Error::usage(format!("`{}` names no table: the schema or the name is missing", text.escape_debug()))
                .hint("write SCHEMA.NAME, such as public.orders; quote a schema with a dot, such as '\"a.b\".orders'")
        })
    }

    /// The name of an entry.
    pub(super) fn of(contents: &Contents, entry: &ContentsEntry) -> Self {
        let text = |field| String::from_utf8_lossy(contents.get(field)).into_owned();
        Self { schema: text(&entry.schema), name: text(&entry.tag) }
    }
}

/// What stands before the closing quote, and what comes after it.
fn until_quote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut name, mut rest) = (Vec::new(), text);
    loop {
        match rest {
            [b'"', b'"', after @ ..] => {
                name.push(b'"');
                rest = after;
            }
            [b'"', after @ ..] => return (!name.is_empty()).then_some((name, after)),
            [byte, after @ ..] => {
                name.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

/// Schema and name at the beginning of SQL of `pg_dump`.
pub(super) fn names_after(text: &[u8]) -> Option<[Vec<u8>; 2]> {
    let (schema, rest) = one_name(text)?;
    let (name, _) = one_name(rest.strip_prefix(b".")?)?;
    Some([schema, name])
}

/// The table that a statement of `pg_dump` changes, or makes a trigger, a rule or a policy of.
pub(super) fn table_of(statement: &[u8]) -> Option<[Vec<u8>; 2]> {
    const MADE: [(&[u8], &[u8]); 4] = [
        (b"CREATE POLICY ", b"ON"),
        (b"CREATE TRIGGER ", b"ON"),
        (b"CREATE CONSTRAINT TRIGGER ", b"ON"),
        (b"CREATE RULE ", b"TO"),
    ];
    if let Some((begin, word)) = MADE.iter().find(|(begin, _)| statement.starts_with(begin)) {
        return names_after(after_word(&statement[begin.len()..], word)?);
    }
    let rest = statement.strip_prefix(b"ALTER ")?;
    let rest = rest.strip_prefix(b"FOREIGN ").unwrap_or(rest).strip_prefix(b"TABLE ")?;
    names_after(rest.strip_prefix(b"ONLY ").unwrap_or(rest))
}

/// The table that the statement of a foreign key refers to.
pub(super) fn referred_table(statement: &[u8]) -> Option<[Vec<u8>; 2]> {
    names_after(after_word(statement, b"REFERENCES")?)
}

/// What follows the first such word, and a blank. It is no part of a name: names in capitals are
/// quoted.
fn after_word<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let mut rest = text;
    while let Some(first) = rest.first() {
        rest = match one_name(rest) {
            Some((name, after)) if *first != b'"' && name == word => return after.strip_prefix(b" "),
            Some((_, after)) => after,
            // A quote that is not closed.
            None if *first == b'"' => return None,
            None => &rest[1..],
        };
    }
    None
}

pub(super) fn one_name(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    if let Some(quoted) = text.strip_prefix(b"\"") {
        return until_quote(quoted);
    }
    let belongs = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'$' || *byte >= 0x80;
    let length = text.iter().take_while(|byte| belongs(byte)).count();
    (length > 0).then(|| (text[..length].to_vec(), &text[length..]))
}

/// Which of `names` somebody may have meant.
pub(super) fn near(wanted: &TableName, names: &[TableName]) -> String {
    if names.is_empty() {
        return "that database has no tables".to_owned();
    }
    let [schema, name] = [&wanted.schema, &wanted.name].map(|text| text.to_lowercase());
    let distance = |other: &TableName| {
        let (other_schema, other_name) = (other.schema.to_lowercase(), other.name.to_lowercase());
        // The right name in another schema is near, whatever the schemas are called.
        let of_schema = strsim::damerau_levenshtein(&schema, &other_schema).min(2);
        strsim::damerau_levenshtein(&name, &other_name) + of_schema
    };
    let mut ranked: Vec<(usize, &TableName)> = names.iter().map(|other| (distance(other), other)).collect();
    ranked.sort();
    let is_near = |(distance, _): &&(usize, &TableName)| *distance <= 2 + name.chars().count() / 3;
    let near: Vec<String> =
        ranked.iter().take_while(is_near).take(MAX_NEAR_NAMES).map(|(_, other)| other.to_string()).collect();
    if !near.is_empty() {
        return format!("near names: {}", near.join(", "));
    }
    let mut all: Vec<String> = names.iter().take(MAX_LISTED_TABLES).map(ToString::to_string).collect();
    if names.len() > MAX_LISTED_TABLES {
        all.push(format!("and {} more", names.len() - MAX_LISTED_TABLES));
    }
    format!("it has: {}", all.join(", "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn table(schema: &str, name: &str) -> TableName {
        TableName { schema: schema.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_name_is_taken_as_it_is_typed_and_can_be_typed_again() {
        for (typed, schema, name) in [
            ("public.orders", "public", "orders"),
            ("Public.Bad.name", "Public", "Bad.name"),
            ("public.\"Bad.name\"", "public", "Bad.name"),
            ("\"a.b\".\"c\"\"d\"", "a.b", "c\"d"),
            ("\"a.b\".c d", "a.b", "c d"),
            ("public.a\"b", "public", "a\"b"),
            ("public.\"\"\"x\"\"\"", "public", "\"x\""),
        ] {
            let parsed = TableName::typed(typed).unwrap();
            assert_eq!(parsed, table(schema, name), "{typed}");
            assert_eq!(TableName::typed(&parsed.to_string()), Some(parsed), "{typed}");
        }
        for bad in ["", "orders", ".", "public.", ".orders", "\"public.orders", "\"\".x", "\"a\"x"] {
            assert_eq!(TableName::typed(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_in_sql_end_where_they_end() {
        let names = |text: &str| names_after(text.as_bytes());
        let both = |schema: &str, name: &str| Some([schema.as_bytes().to_vec(), name.as_bytes().to_vec()]);
        assert_eq!(names("public.orders(id) ON DELETE CASCADE;"), both("public", "orders"));
        assert_eq!(names("\"a.b\".\"c\"\"d\"(id)"), both("a.b", "c\"d"));
        assert_eq!(names("orders(id)"), None);
        assert_eq!(names("\"a.b"), None);
    }

    #[test]
    fn a_statement_tells_its_table_whatever_its_names_are() {
        let both = |schema: &str, name: &str| Some([schema.as_bytes().to_vec(), name.as_bytes().to_vec()]);
        for (statement, table) in [
            ("ALTER TABLE ONLY public.orders ALTER COLUMN n SET DEFAULT 1;", both("public", "orders")),
            ("ALTER TABLE ONLY public.\"orders x\"\n    ADD CONSTRAINT fk FOREIGN KEY", both("public", "orders x")),
            ("ALTER FOREIGN TABLE \"a.b\".c\n    ADD CONSTRAINT k CHECK (true);", both("a.b", "c")),
            ("CREATE POLICY \"own ON x.y\" ON public.orders USING (true);", both("public", "orders")),
            ("CREATE TRIGGER t AFTER UPDATE OF \"ON \" ON s.\"b\"\"c\" FOR EACH ROW", both("s", "b\"c")),
            ("CREATE CONSTRAINT TRIGGER \"ON\" AFTER INSERT ON s.t FROM s.o", both("s", "t")),
            (
                "CREATE RULE \"x TO y.z\" AS\n    ON INSERT TO public.orders DO INSTEAD NOTHING;",
                both("public", "orders"),
            ),
            ("ALTER DOMAIN public.orders\n    ADD CONSTRAINT k CHECK (true);", None),
            ("CREATE POLICY \"open ON public.orders", None),
        ] {
            assert_eq!(table_of(statement.as_bytes()), table, "{statement}");
        }
        let key = "ALTER TABLE ONLY s.t\n    ADD CONSTRAINT \"a REFERENCES s.false\" FOREIGN KEY (\"REFERENCES x\") REFERENCES s.o(id);";
        assert_eq!(referred_table(key.as_bytes()), both("s", "o"));
        assert_eq!(referred_table(b"ALTER TABLE ONLY s.t ADD CONSTRAINT c CHECK (true);"), None);
    }

    #[test]
    fn the_names_that_are_told_are_those_that_were_meant() {
        let all = [table("public", "orders"), table("public", "order_lines"), table("shop", "customers")];
        assert_eq!(near(&table("public", "ordres"), &all), "near names: public.orders");
        assert_eq!(near(&table("public", "Customers"), &all), "near names: shop.customers");
        assert!(near(&table("x", "unlike_all_of_them"), &all).starts_with("it has: public.orders, "));
        assert!(near(&table("x", "y"), &[]).contains("no tables"));
    }
}
