//! What proves a snapshot wrong, or the queries that were to, as an error with the one thing to do
//! about it.

use std::collections::BTreeSet;

use lifeboat_base::{Error, Result};
use lifeboat_databases::proof::{CheckResult, DrillQuery, ProofResult};
use lifeboat_format::id::Name;

/// What engines say of a query that names what is not there.
const NOT_THERE: [&str; 5] = ["does not exist", "doesn't exist", "Unknown column", "no such table", "no such column"];
/// What they say of a query that they do not understand.
const NO_STATEMENT: [&str; 6] = [
    "syntax error",
    "ERROR 1064",
    "incomplete input",
    "unrecognized token",
    "ERR unknown command",
    "ERR wrong number of arguments",
];

/// Fails if a query names a database that the snapshot lacks. `databases` are those that it has; if
/// there are none, its kind has only one. `skipped` are those that its capture left out.
pub(super) fn queries_fit(queries: &[DrillQuery], databases: &BTreeSet<String>, skipped: &[String]) -> Result<()> {
    let mut named = queries.iter().filter_map(|query| query.database.as_ref()).filter(|_| !databases.is_empty());
    let Some(missing) = named.find(|name| !databases.contains(*name)) else { return Ok(()) };
    let told = format!("[dataset.drill] queries name database `{}`, which", missing.escape_debug());
    if skipped.contains(missing) {
        return Err(Error::integrity(format!("{told} the capture of the snapshot skipped"))
            .hint("look at the log of the backup host why it was skipped, and back up again"));
    }
    let has: Vec<String> = databases.iter().map(|name| name.escape_debug().to_string()).collect();
    Err(Error::configuration(format!("{told} the snapshot lacks"))
        .hint(format!("it has: {}; correct it in [dataset.drill] queries", has.join(", "))))
}

/// The error of a check that failed; `queries` are those of the operator.
pub(super) fn failed_check<'q>(failed: &CheckResult, queries: impl Iterator<Item = &'q str>, dataset: &Name) -> Error {
    let error = Error::integrity(format!("check `{}` failed: {}", failed.check, failed.detail));
    hint_of(failed, queries, dataset).into_iter().fold(error, Error::hint)
}

/// What to do about a query. What it names may be lost, so this stays a failed check.
fn hint_of<'q>(failed: &CheckResult, mut queries: impl Iterator<Item = &'q str>, dataset: &Name) -> Option<String> {
    let says = |words: &[&str]| words.iter().any(|word| failed.detail.contains(word));
    if !queries.any(|sql| failed.check.ends_with(sql)) {
        return None;
    }
    Some(if failed.detail.starts_with("expected ") {
        format!(
            "ask the source the same: if it gives this too, correct the data there, or [dataset.drill] queries; if not, run `lifeboat bisect {dataset}` to find the last snapshot that gives what is expected"
        )
    } else if says(&NO_STATEMENT) {
        "correct it in [dataset.drill] queries".to_owned()
    } else if says(&NOT_THERE) {
        "look first whether [dataset.drill] queries spells the table or column as the source does; if it does, the snapshot lacks it".to_owned()
    } else {
        "ask the source the same: if it fails there, too, correct it in [dataset.drill] queries".to_owned()
    })
}

/// The error of a restored database that is not as the snapshot says. `None`: it is equal.
pub(super) fn difference(proof: &ProofResult, dataset: &Name) -> Option<Error> {
    let first = proof.differences.first().map_or("nothing was compared", String::as_str);
    let error = Error::integrity(format!("the restored database differs from the snapshot: {first}"));
    let hint = format!("run `lifeboat verify {dataset}`: it tells whether what is stored is whole");
    (!proof.is_equal()).then(|| error.hint(hint))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lifeboat_base::Class;

    use super::*;

    #[test]
    fn each_way_in_which_a_query_fails_has_a_hint_of_its_own() {
        let failed = |check: &str, detail: &str| CheckResult {
            check: check.to_owned(),
            passed: false,
            detail: detail.to_owned(),
        };
        let (sql, dataset) = ("SELECT count(*) FROM ordres", "shop".parse().unwrap());
        let hint = |check: &str, detail: &str| hint_of(&failed(check, detail), [sql].into_iter(), &dataset);
        let query = format!("shop: {sql}");
        for (detail, told) in [
            ("ERROR:  relation \"ordres\" does not exist", "spells"),
            ("ERROR 1146 (42S02) at line 1: Table 'shop.ordres' doesn't exist", "spells"),
            ("ERROR 1054 (42S22) at line 1: Unknown column 'a' in 'field list'", "spells"),
            ("no such table: ordres", "spells"),
            ("no such column: a", "spells"),
            ("ERROR:  syntax error at or near \"ordres\"", "correct it"),
            ("ERROR 1064 (42000) at line 1: You have an error", "correct it"),
            ("expected 3001, found 3000", "lifeboat bisect shop"),
            ("expected at least 1, found NULL", "lifeboat bisect shop"),
            ("ERROR:  division by zero", "fails there, too"),
        ] {
            let hint = hint(&query, detail).unwrap_or_else(|| panic!("{detail}"));
            assert!(hint.contains(told), "{detail}: {hint}");
        }
        assert_eq!(hint("pg_amcheck shop", "relation \"x\" does not exist"), None, "not a query");
    }

    #[test]
    fn a_query_of_a_database_that_is_not_there_is_refused_with_the_names_of_those_that_are() {
        let query = |database: Option<&str>| DrillQuery {
            database: database.map(str::to_owned),
            sql: "SELECT 1".to_owned(),
            ..DrillQuery::default()
        };
        let has = BTreeSet::from(["postgres".to_owned(), "sh\nop".to_owned()]);
        let fits = |queries: &[DrillQuery]| queries_fit(queries, &has, &["crm".to_owned()]);
        assert!(fits(&[query(None), query(Some("postgres")), query(Some("sh\nop"))]).is_ok());
        let refused = fits(&[query(Some("postgres")), query(Some("nope"))]).unwrap_err();
        assert_eq!(refused.class(), Class::Configuration);
        assert_eq!(refused.message(), "[dataset.drill] queries name database `nope`, which the snapshot lacks");
        let hint = "it has: postgres, sh\\nop; correct it in [dataset.drill] queries";
        assert_eq!(refused.hint_text(), Some(hint));
        let skipped = fits(&[query(Some("crm"))]).unwrap_err();
        assert_eq!((skipped.class(), skipped.message().contains("skipped")), (Class::Integrity, true));
        // A kind that has one database tells no name of it.
        assert!(queries_fit(&[query(Some("0"))], &BTreeSet::new(), &[]).is_ok());
    }
}
