//! What a drill shows: how far it went, what it checked, and what it compared.

mod expect;
pub(crate) mod multiset;
mod parts;

use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use serde::{Deserialize, Serialize};

pub(crate) use self::expect::FirstValue;
pub use self::expect::Number;
pub use self::parts::PartsToProve;

/// The name of the check that commands of the operator make.
pub(crate) const VERIFY_CHECK: &str = "verify";

/// How far a drill went. Each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofLevel {
    /// Every object is present and decrypts, and signatures and hashes are right.
    Fetched = 1,
    /// A fresh throw-away server loaded it without an error.
    Loaded = 2,
    /// The engine's checks and the operator's queries passed.
    Checked = 3,
    /// The restored database, dumped again, equals the snapshot.
    Proved = 4,
}

impl ProofLevel {
    /// The name of the level in configuration and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Loaded => "loaded",
            Self::Checked => "checked",
            Self::Proved => "proved",
        }
    }
}

/// A query that the operator wants run in the restored database. All that is set of what must be
/// true of its result, the first column of the first row, must be true. If nothing is, it need only
/// succeed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillQuery {
    /// The database to ask; `None` for the only one.
    pub database: Option<String>,
    /// The query: one SQL statement.
    pub sql: String,
    /// What the result must be, as text.
    pub expect: Option<String>,
    /// The result must be a number, and not less than this.
    pub at_least: Option<Number>,
    /// The result must be a number, and not more than this.
    pub at_most: Option<Number>,
    /// The result must be a time, at most this long before the snapshot was taken.
    pub fresher_than: Option<Duration>,
    /// When the snapshot was taken. The drill tells it; without it, nothing is fresh.
    pub taken_at: Option<DateTime<Utc>>,
}

/// One check and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The name of the check, such as `pg_amcheck`, or the operator's SQL.
    pub check: String,
    /// Whether it passed.
    pub passed: bool,
    /// What the check said, in one line.
    pub detail: String,
}

/// A query that is no SQL, whatever the database holds.
pub(crate) fn no_sql(query: &str, said: &str) -> Error {
    Error::configuration(format!("the drill's query `{query}` is no SQL: {said}"))
        .hint("correct it in [dataset.drill] queries")
}

/// What came of a query: what it gave, judged; or why it gave nothing.
pub(crate) type QueryAnswer = Result<CheckResult, Unanswered>;

/// A query that ended in an error.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// The query.
    pub(crate) check: String,
    /// What the engine said.
    pub(crate) detail: String,
    /// Set if the query could succeed nowhere.
    pub(crate) typing_error: Option<Error>,
}

/// The results of all checks, `results` before those of queries. A query that ended in an error
/// failed. If those that failed are nothing but typing errors, the first of these: then nothing
/// says that data is damaged.
pub(crate) fn checked(mut results: Vec<CheckResult>, answers: Vec<QueryAnswer>) -> Result<Vec<CheckResult>> {
    let mut typing_errors = Vec::new();
    for answer in answers {
        results.push(answer.unwrap_or_else(|Unanswered { check, detail, typing_error }| {
            typing_errors.extend(typing_error);
            CheckResult { check, passed: false, detail }
        }));
    }
    let failed = results.iter().filter(|result| !result.passed).count();
    match typing_errors.len() == failed {
        true => typing_errors.into_iter().next().map_or(Ok(results), Err),
        false => Ok(results),
    }
}

/// What the queries gave, for whoever takes nothing else for an answer.
///
/// # Errors
/// [`Class::Usage`](lifeboat_base::Class::Usage) if one could succeed nowhere;
/// [`Class::Source`](lifeboat_base::Class::Source) if one ended in another error.
pub(crate) fn answered(answers: Vec<QueryAnswer>) -> Result<Vec<CheckResult>> {
    let each = answers.into_iter().map(|answer| {
        answer.map_err(|Unanswered { check, detail, typing_error }| {
            let what = format!("the query `{check}` ended in an error, which is no answer: {detail}");
            match typing_error {
                Some(_) => Error::usage(what).hint("correct the query"),
                None => Error::source_failed(what).hint(
                    "correct the query, or ask in a way that succeeds in every snapshot, such as whether a table exists",
                ),
            }
        })
    });
    each.collect()
}

/// What was compared to call a restored database equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofResult {
    /// How many schema definitions were compared, as text.
    pub definitions: u64,
    /// How many tables were compared, as multisets of rows.
    pub tables: u64,
    /// How many rows these tables have.
    pub rows: u64,
    /// How many large objects were compared.
    pub large_objects: u64,
    /// What differs, in plain words: at most 50 differences, then how many more there are. Empty if
    /// all is equal.
    pub differences: Vec<String>,
    /// What is equal in another way than byte by byte, in plain words: at most 50 notes, then how
    /// many more there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The version of the captured server, if the engine has servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_version: Option<String>,
    /// The version of the throw-away server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
}

impl ProofResult {
    /// Whether something was compared and nothing differs.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.definitions + self.tables > 0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lifeboat_base::Class;

    use super::*;

    #[test]
    fn an_error_fails_a_drill_and_is_no_answer_to_whoever_asks() {
        let result = |passed| CheckResult { check: "q".to_owned(), passed, detail: "7".to_owned() };
        let error = |is_typing_error: bool| {
            let typing_error = is_typing_error.then(|| no_sql("q", "syntax error"));
            Err(Unanswered { check: "q".to_owned(), detail: "out of memory".to_owned(), typing_error })
        };
        let drilled = checked(vec![result(true)], vec![Ok(result(false)), error(false), error(true)]).unwrap();
        assert_eq!(drilled.iter().map(|one| one.passed).collect::<Vec<_>>(), [true, false, false, false]);
        assert_eq!(checked(Vec::new(), vec![Ok(result(true)), error(true)]).unwrap_err().class(), Class::Configuration);
        assert_eq!(answered(vec![Ok(result(false)), Ok(result(true))]).unwrap(), [result(false), result(true)]);
        let refused = answered(vec![Ok(result(true)), error(false)]).unwrap_err();
        assert_eq!((refused.class(), refused.chain().contains("out of memory")), (Class::Source, true));
        assert_eq!(answered(vec![error(true)]).unwrap_err().class(), Class::Usage);
    }
}
