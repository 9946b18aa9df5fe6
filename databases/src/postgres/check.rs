//! Looks at a server as a capture would, before there is one: which tools fit, and whether the role
//! may read what it is to dump. Nothing is dumped.

use lifeboat_base::{Error, Result};

use super::server::{Server, ServerFacts};
use super::sql::FIELD_SEPARATOR;

/// What `pg_dump` would read, and the role may not: how many relations, the first of them, how many
/// of them hide rows from the role, and the role. Members of extensions are not dumped.
const UNREADABLE: &str = "SELECT count(*), min(quote_ident(n.nspname) || '.' || quote_ident(c.relname)), \
    count(*) FILTER (WHERE row_security_active(c.oid)), quote_ident(current_user) \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' \
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
    AND (row_security_active(c.oid) OR NOT has_schema_privilege(n.oid, 'USAGE') OR NOT has_table_privilege(c.oid, 'SELECT'))";

/// What is weak about a server, or about the role and the tools for it.
pub(super) fn weak(server: &Server<'_>, facts: &ServerFacts) -> Vec<String> {
    let (tools, mut weak) = (&server.clients, Vec::new());
    if tools.major > facts.major {
        weak.push(format!(
            "is dumped by client tools of version {}, so only PostgreSQL {} or newer can load it: install postgresql-client-{}",
            tools.version, tools.major, facts.major
        ));
    }
    if !facts.reads_passwords {
        weak.push(
            "is captured without the passwords of roles, which its role may not read: use a superuser, or GRANT SELECT ON pg_authid to it"
                .to_owned(),
        );
    }
    weak
}

/// What a standby does to dumps that keep it from replaying what its primary did.
const STANDBY_PATIENCE: &str =
    "SELECT current_setting('hot_standby_feedback'), current_setting('max_standby_streaming_delay')";

/// Whether the server is a standby that would cancel a long dump.
pub(super) async fn cancels_dumps(server: &Server<'_>, facts: &ServerFacts) -> Result<Option<String>> {
    if !facts.in_recovery {
        return Ok(None);
    }
    let answer = server.query(STANDBY_PATIENCE).await?;
    Ok(match answer.split(FIELD_SEPARATOR).collect::<Vec<_>>().as_slice() {
        ["off", delay] if *delay != "-1" => Some(format!(
            "is a standby that cancels what keeps it from replaying for longer than {}: set hot_standby_feedback = on there, or max_standby_streaming_delay above the time of a dump",
            delay.escape_debug()
        )),
        _ => None,
    })
}

/// Whether the role may read every table and sequence of a database.
pub(super) async fn rights(server: &Server<'_>, facts: &ServerFacts, database: &str) -> Result<()> {
    let answer = server.query_in(database, UNREADABLE).await?;
    let fields: Vec<&str> = answer.split(FIELD_SEPARATOR).collect();
    let [count, first, hidden, role] = fields[..] else {
        return Err(Error::source_failed("the PostgreSQL server gave an unexpected answer about rights"));
    };
    if count == "0" {
        return Ok(());
    }
    let (first, role) = (first.escape_debug(), role.escape_debug());
    let error =
        Error::source_failed(format!("role {role} may not read {count} of its tables and sequences, such as {first}"));
    Err(if hidden == count {
        error.hint(format!("row security hides rows from it: ALTER ROLE {role} BYPASSRLS"))
    } else if facts.major >= 14 && hidden != "0" {
        error.hint(format!("GRANT pg_read_all_data TO {role}, and ALTER ROLE {role} BYPASSRLS: some hide rows"))
    } else if facts.major >= 14 {
        error.hint(format!("GRANT pg_read_all_data TO {role}"))
    } else {
        error.hint(format!("GRANT USAGE on the schemas and SELECT on all tables and sequences to {role}"))
    })
}
