//! What a dump leaves out in silence. The server is asked, and the answers are warnings of the
//! snapshot. What the tools themselves warn of is told elsewhere.

use lifeboat_base::{Result, escape};

use super::server::{Server, ServerFacts};
use super::sql::rows;

/// No more names are told in one warning.
const MAX_NAMES: usize = 10;
/// Their rows are never sent to a standby. Unlogged sequences come with 15.
const UNLOGGED: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c \
    JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'S', 'm') ORDER BY 1";
/// Each database has its own grants on its catalog.
const READS_USER_MAPPINGS: &str = "SELECT has_table_privilege('pg_user_mapping', 'SELECT')";
/// Servers of user mappings whose options we see and `pg_dump`, which asks a view, does not.
const HIDDEN_OPTIONS: &str = "SELECT DISTINCT v.srvname FROM pg_user_mapping m \
    JOIN pg_user_mappings v ON v.umid = m.oid WHERE m.umoptions IS NOT NULL AND v.umoptions IS NULL ORDER BY 1";
/// The same for a role that cannot read the table: mappings without visible options.
const PERHAPS_HIDDEN_OPTIONS: &str = "SELECT DISTINCT srvname FROM pg_user_mappings WHERE umoptions IS NULL AND NOT \
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) ORDER BY 1";

/// Objects of the server's own whose owner is another than when the server was made. Large objects
/// with small numbers are dumped with theirs.
const OTHER_OWNERS: &str = "SELECT concat(i.type, ' ', i.identity, ' (of ', r.rolname, ')') FROM pg_shdepend d \
    JOIN pg_roles r ON r.oid = d.refobjid CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i \
    WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND d.deptype = 'o' \
    AND d.refclassid = 'pg_authid'::regclass AND d.objid < 16384 AND d.classid <> 'pg_largeobject'::regclass";
/// From this version on, `pg_dump` holds the owner of the schema `public`.
const PUBLIC_HAS_OWNER: u32 = 15;
const NOT_PUBLIC: &str = " AND NOT (d.classid = 'pg_namespace'::regclass AND d.objid = 2200)";

/// What no dump of `database` holds.
///
/// # Errors
/// The server does not answer, or the role may not ask.
pub(super) async fn of_database(server: &Server<'_>, facts: &ServerFacts, database: &str) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if facts.in_recovery {
        let tables = rows(&server.query_in(database, UNLOGGED).await?);
        if !tables.is_empty() {
            warnings.push(format!(
                "database {database}: a standby has no rows of unlogged tables, so they are not backed up: {}",
                some(&tables)
            ));
        }
    }
    let reads_all = server.query_in(database, READS_USER_MAPPINGS).await? == "t";
    let (options, sure) = if reads_all { (HIDDEN_OPTIONS, "") } else { (PERHAPS_HIDDEN_OPTIONS, ", if they have any") };
    let servers = rows(&server.query_in(database, options).await?);
    if !servers.is_empty() {
        warnings.push(format!(
            "database {database}: pg_dump cannot see the options of user mappings, such as passwords, with this role; they are not backed up{sure}: of servers {}",
            some(&servers)
        ));
    }
    let but = if server.clients.major >= PUBLIC_HAS_OWNER { NOT_PUBLIC } else { "" };
    let owned = rows(&server.query_in(database, &format!("{OTHER_OWNERS}{but} ORDER BY 1")).await?);
    if !owned.is_empty() {
        warnings.push(format!(
            "database {database}: pg_dump does not hold the owners of the server's own objects, and these were changed; set them by hand after a restore: {}",
            some(&owned)
        ));
    }
    Ok(warnings)
}

/// What no dump of the server holds.
pub(super) fn of_server(facts: &ServerFacts) -> Option<String> {
    facts.settings_of_all.then(|| {
        "settings of ALTER ROLE ALL are not in any dump and are not backed up; keep them with the server's configuration"
            .to_owned()
    })
}

fn some(names: &[String]) -> String {
    let mut told =
        names.iter().take(MAX_NAMES).map(|name| escape::line(name).into_owned()).collect::<Vec<_>>().join(", ");
    if names.len() > MAX_NAMES {
        told.push_str(&format!(" and {} more", names.len() - MAX_NAMES));
    }
    told
}
