//! The role that loads a database in place of a superuser.
//!
//! A dump holds code: functions that constraints, indexes and generated columns call, and whatever
//! a forged archive holds. Code that a superuser's session runs can always become the superuser
//! again, whichever role the session has set. So an archive is loaded in a session that began as a
//! role without rights. That role is made for one restore, owns the database while it is loaded,
//! and is dropped in the end.

use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};
use tokio_util::sync::CancellationToken;

use super::contents::Contents;
use super::query::query;
use super::roles::several;
use super::server::Server;
use super::sql::{literal, quoted, rows};
use super::steps::Step;
use crate::database::WorkContext;

/// Kinds of entries that only a superuser can make.
const HIGH_KINDS: [&str; 10] = [
    "ACCESS METHOD",
    "EVENT TRIGGER",
    "FOREIGN DATA WRAPPER",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "PROCEDURAL LANGUAGE",
    "SUBSCRIPTION",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "TRANSFORM",
];
/// How long the role could log in if nobody dropped it.
const LIFETIME: &str = "7 days";
/// The first version in which the schema `public` belongs to whoever owns the database.
const PUBLIC_OF_OWNER: u32 = 15;
/// What to do if a superuser is needed.
pub(crate) const AS_SUPERUSER: &str =
    "if you trust all code in the snapshot, pass --as-superuser, which runs it as the superuser that you connect as";

/// As whom an archive is loaded.
#[derive(Clone, Copy)]
pub(crate) enum LoadsAs<'a> {
    /// As the role that connects, into a server that is ours or as a role that is no superuser.
    Connected,
    /// As the superuser that connects: the operator said so.
    Superuser,
    /// As a role without rights, for this role.
    Loader(&'a Loader, &'a str),
}

/// A role without rights that can log in.
pub(crate) struct Loader {
    pub(crate) role: String,
    password: Secret,
    major: u32,
}

impl Loader {
    /// Makes the role.
    ///
    /// # Errors
    /// The server cannot make it.
    pub(crate) async fn make(server: &Server<'_>, major: u32) -> Result<Self> {
        let mark: u64 = rand::random();
        let role = format!("lifeboat-loader-{mark:016x}");
        let password = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let until = server.query(&format!("SELECT now() + interval {}", literal(LIFETIME))).await?;
        let sql = format!(
            "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {} VALID UNTIL {}",
            quoted(&role),
            literal(&password),
            literal(until.trim())
        );
        let mut step = Step::new(format!("role {role}"), sql);
        step.needed = true;
        server.run_steps(server.connection.maintenance_database(), &[step], "UTF8").await?;
        Ok(Self { role, password: Secret::new(password.into_bytes()), major })
    }

    /// The server as this role reaches it.
    ///
    /// # Errors
    /// The password cannot be written to a file.
    pub(crate) fn server<'a>(&self, server: &Server<'a>) -> Result<Server<'a>> {
        let connection = server.connection.as_role(&self.role, &self.password, server.cx)?;
        Ok(Server { clients: server.clients.clone(), connection, cx: server.cx })
    }

    /// Gives it the database `place`.
    ///
    /// # Errors
    /// The server refuses, or does not let it log in.
    pub(crate) async fn take(&self, server: &Server<'_>, place: &str) -> Result<()> {
        let role = quoted(&self.role);
        server.query_in(server.outside(place), &format!("ALTER DATABASE {} OWNER TO {role}", quoted(place))).await?;
        if self.major < PUBLIC_OF_OWNER {
            server.query_in(place, &format!("ALTER SCHEMA public OWNER TO {role}")).await?;
        }
        let own = self.server(server)?;
        let asked = query(&own.clients, &own.connection, place, "SELECT session_user", own.cx).await;
        match asked {
            Ok(user) if user == self.role => Ok(()),
            Ok(_) => Err(Error::source_failed("the server logged in another role than the one that is to load")),
            Err(error) => Err(error
                .within("the snapshot would be loaded by a role without rights, but the server does not let it log in")
                .hint(format!("connect in a way that asks for passwords, such as TCP with scram-sha-256 in pg_hba.conf; or, {AS_SUPERUSER}"))),
        }
    }

    /// Gives back what the server has from the start in the database `place`.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn give_back_public(&self, server: &Server<'_>, place: &str) -> Result<()> {
        if self.major < PUBLIC_OF_OWNER {
            let owner = server.query_in(place, "SELECT rolname FROM pg_roles WHERE oid = 10").await?;
            server.query_in(place, &format!("ALTER SCHEMA public OWNER TO {}", quoted(owner.trim()))).await?;
        }
        Ok(())
    }

    /// Gives all that it still owns in the database `place` to the role that restores.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn give_back(&self, server: &Server<'_>, place: &str) -> Result<()> {
        let role = quoted(&self.role);
        let sql = format!("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}");
        server.query_in(place, &sql).await.map(drop)
    }

    /// Drops the role although the restore was cancelled, or because it was.
    pub(crate) async fn drop(&self, server: &Server<'_>) {
        let cx = WorkContext { cancel: CancellationToken::new(), ..server.cx.clone() };
        let database = server.connection.maintenance_database();
        let sql = format!("DROP ROLE IF EXISTS {}", quoted(&self.role));
        if let Err(error) = query(&server.clients, &server.connection, database, &sql, &cx).await {
            tracing::warn!(role = self.role, error = %error.chain(), "the temporary role could not be dropped; drop it by hand");
        }
    }
}

/// What in an archive only a superuser can make on this server.
///
/// # Errors
/// The server cannot be asked.
pub(crate) async fn needs_superuser(server: &Server<'_>, contents: &Contents) -> Result<Vec<String>> {
    let kind = |entry| String::from_utf8_lossy(contents.get(entry)).into_owned();
    let mut needed: Vec<String> = contents
        .entries
        .iter()
        .filter(|entry| HIGH_KINDS.contains(&kind(&entry.kind).as_str()))
        .map(|entry| contents.name(entry))
        .collect();
    let extensions: Vec<String> = contents.of_kind("EXTENSION").map(|entry| literal(&kind(&entry.tag))).collect();
    if !extensions.is_empty() {
        let sql = format!(
            "SELECT DISTINCT 'EXTENSION ' || name FROM pg_available_extension_versions WHERE name IN ({}) AND superuser AND NOT trusted",
            extensions.join(", ")
        );
        needed.extend(rows(&server.query(&sql).await?));
    }
    Ok(needed)
}

/// What of an archive is code that its loading may run, for people.
pub(crate) fn code(contents: &Contents) -> Vec<String> {
    let kinds = ["FUNCTION", "PROCEDURE", "EVENT TRIGGER", "EXTENSION", "MATERIALIZED VIEW DATA"];
    kinds.iter().flat_map(|kind| contents.of_kind(kind)).map(|entry| contents.name(entry)).collect()
}

/// The refusal of an archive that needs a superuser.
pub(crate) fn refusal(needed: &[String]) -> Error {
    let needed = several(needed.iter().map(String::as_str));
    Error::usage(format!("the snapshot is loaded by a role without rights, but only a superuser can make: {needed}"))
        .hint(format!("{AS_SUPERUSER}; or leave these out with --keep-going"))
}
