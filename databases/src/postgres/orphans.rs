//! The role that owns what has no owner on a server. It has no rights, and nobody is in it.

use lifeboat_base::{Error, Result};

use super::server::Server;
use super::sql::{literal, quoted};

/// The role, without rights, that owns what would otherwise have no owner here.
pub(crate) const ORPHANS: &str = "lifeboat-orphans";

/// Makes the role that owns what would otherwise have no owner here, unless it is there.
///
/// # Errors
/// The server cannot make it; or it is there, and can do something.
pub(crate) async fn make_orphans(server: &Server<'_>) -> Result<()> {
    let (role, name) = (quoted(ORPHANS), literal(ORPHANS));
    if !server.query(&format!("SELECT 1 FROM pg_roles WHERE rolname = {name}")).await?.is_empty() {
        let able = format!(
            "SELECT count(*) FROM pg_roles r WHERE r.rolname = {name} AND (r.rolsuper OR r.rolcanlogin OR r.rolcreaterole
                OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
                OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid OR m.roleid = r.oid AND m.member <> 10))"
        );
        if server.query(&able).await?.trim() != "0" {
            return Err(Error::usage(format!(
                "the role {ORPHANS} has rights or members, but is to own what has no owner here"
            ))
            .hint("take them away, or rename it"));
        }
        return Ok(());
    }
    let create = format!("CREATE ROLE {role} NOLOGIN NOINHERIT");
    server.finish_in(server.connection.maintenance_database(), &create).await.map(drop)
}

/// Drops the role that owns what has no owner here, if it owns nothing.
pub(crate) async fn drop_orphans(server: &Server<'_>) {
    let name = literal(ORPHANS);
    let drop = format!(
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN EXECUTE format('DROP ROLE %I', {name}); END IF;
         EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$"
    );
    let database = server.connection.maintenance_database();
    if let Err(error) = server.finish_in(database, &drop).await {
        tracing::warn!(role = ORPHANS, error = %error.chain(), "the role could not be dropped");
    }
}
