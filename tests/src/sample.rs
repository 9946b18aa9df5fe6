//! The sample data: a mail-order shop with a little of everything PostgreSQL lets an application
//! use, made by the server itself, the same on every server and in every run.

/// The database-level objects: roles, types, tables, functions, views. Needs a superuser and an
/// empty database.
#[must_use]
pub fn schema_sql() -> &'static str {
    include_str!("sample/schema.sql")
}

/// Fills it. `scale` 1.0 is about 200 MB of uncompressed dump and takes some 15 seconds; 0.01 is
/// good for a test.
#[must_use]
pub fn fill_sql(scale: f64) -> String {
    include_str!("sample/fill.sql").replace("@SCALE@", &format!("{scale:.6}"))
}

/// One business day. May be run again: every day is a new one.
#[must_use]
pub fn change_sql() -> &'static str {
    include_str!("sample/change.sql")
}
