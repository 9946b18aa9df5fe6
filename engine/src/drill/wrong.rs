//! What proves a snapshot wrong, as an error with the one thing to do about it.

use lifeboat_base::Error;
use lifeboat_databases::proof::{CheckResult, ProofResult};
use lifeboat_format::id::Name;

/// The error of a check that failed; `queries` are those of the operator.
pub(super) fn failed_check<'q>(failed: &CheckResult, queries: impl Iterator<Item = &'q str>) -> Error {
    let error = Error::integrity(format!("check `{}` failed: {}", failed.check, failed.detail));
    hint_of(failed, queries).into_iter().fold(error, Error::hint)
}

/// What to do if a query names what is not there. It may be lost, so this stays a failed check.
fn hint_of<'q>(failed: &CheckResult, mut queries: impl Iterator<Item = &'q str>) -> Option<&'static str> {
    let is_query = queries.any(|sql| failed.check.ends_with(sql));
    let lacks = ["does not exist", "no such table", "no such column"].iter().any(|words| failed.detail.contains(words));
    (is_query && lacks).then_some(
        "look first whether [dataset.drill] queries spells the table or column as the source does; if it does, the snapshot lacks it",
    )
}

/// The error of a restored database that is not as the snapshot says. `None`: it is equal.
pub(super) fn difference(proof: &ProofResult, dataset: &Name) -> Option<Error> {
    let first = proof.differences.first().map_or("nothing was compared", String::as_str);
    let error = Error::integrity(format!("the restored database differs from the snapshot: {first}"));
    let hint = format!("run `lifeboat verify {dataset}`: it tells whether what is stored is whole");
    (!proof.is_equal()).then(|| error.hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_names_what_is_not_there_has_a_hint_of_its_own() {
        let failed = |check: &str, detail: &str| CheckResult {
            check: check.to_owned(),
            passed: false,
            detail: detail.to_owned(),
        };
        let sql = "SELECT count(*) FROM ordres";
        let hint = |check: &str, detail: &str| hint_of(&failed(check, detail), [sql].into_iter());
        let query = format!("shop: {sql}");
        for detail in ["ERROR:  relation \"ordres\" does not exist", "no such table: ordres", "no such column: a"] {
            assert!(hint(&query, detail).is_some_and(|hint| hint.contains("spells")), "{detail}");
        }
        assert_eq!(hint(&query, "3001 is not 3000"), None);
        assert_eq!(hint("pg_amcheck shop", "relation \"x\" does not exist"), None);
    }
}
