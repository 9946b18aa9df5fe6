//! The role that loads a database in place of a superuser.
//!
//! A dump holds code: functions that constraints, indexes and generated columns call, and whatever
//! a forged archive holds. Code that a superuser's session runs can always become the superuser
//! again, whichever role the session has set. So an archive is loaded in a session that began as a
//! role of its own. That role is made for one restore, may create in the database while it is
//! loaded, owns what it makes there, and is dropped in the end. Nobody else is let in until then.
//! What that code could change in the database meanwhile, [`super::guard`] refuses.
//!
//! Large objects are loaded by a second role, the keeper, which owns nothing else. No code of a
//! dump ever runs as the keeper, and what runs as the loader cannot write into them.

use std::time::Duration;

use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::needs::AS_SUPERUSER;
use super::query::query;
use super::roles::several;
use super::server::Server;
use super::sql::{literal, quoted, rows};
use super::steps::Step;
use crate::database::WorkContext;

/// A pattern of the names of roles that load.
pub(super) const LOADERS: &str = "^lifeboat-(loader|keeper)-[0-9a-f]{16}$";
/// How long the role could log in if nobody dropped it.
const LIFETIME: &str = "7 days";
/// How often it is looked whether its sessions have ended, and how long between.
const MAX_ATTEMPTS_TO_END: usize = 100;
const END_INTERVAL: Duration = Duration::from_millis(100);
/// No more objects get other rights in one transaction.
const MAX_CHANGED: usize = 500;
/// The first version in which the schema `public` belongs to whoever owns the database.
const PUBLIC_OF_OWNER: u32 = 15;
/// The first version with statistics of expressions.
const STATISTICS_OF_EXPRESSIONS: u32 = 14;
/// As whom an archive is loaded.
#[derive(Clone, Copy)]
pub(crate) enum LoadsAs<'a> {
    /// As the role that connects, into a server that is ours or as a role that is no superuser.
    Connected,
    /// As the superuser that connects: the operator said so.
    Superuser,
    /// As a role of its own.
    Loader(&'a Loader),
}

/// What the role that loads may do with what it made, besides giving itself more, which the guard
/// refuses to code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Fill tables, but read nothing, and not touch sequences.
    Fill,
    /// Read, but not change sequences.
    Read,
    All,
}

/// A role that can log in, and has no rights but in what it makes; and its keeper.
pub(crate) struct Loader {
    pub(crate) role: String,
    /// The role that loads large objects.
    keeper: String,
    /// Of both.
    password: Secret,
    /// A digest of what the server keeps of the role's password.
    verifier: String,
    guard: Guard,
    major: u32,
}

impl Loader {
    /// Makes both roles.
    ///
    /// # Errors
    /// The server cannot make them.
    pub(crate) async fn make(server: &Server<'_>, major: u32) -> Result<Self> {
        let mark: u64 = rand::random();
        let (role, keeper) = (format!("lifeboat-loader-{mark:016x}"), format!("lifeboat-keeper-{mark:016x}"));
        let password = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let until = server.query(&format!("SELECT now() + interval {}", literal(LIFETIME))).await?;
        let steps = [&role, &keeper].map(|role| {
            let sql = format!(
                "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {} VALID UNTIL {}",
                quoted(role),
                literal(&password),
                literal(until.trim())
            );
            Step { needed: true, ..Step::new(format!("role {role}"), sql) }
        });
        server.run_steps(server.connection.maintenance_database(), &steps, "UTF8").await?;
        let verifier = server.query(&verifier(&role)).await?;
        let guard = Guard::of(&role, &keeper, &verifier);
        Ok(Self { role, keeper, password: Secret::new(password.into_bytes()), verifier, guard, major })
    }

    /// A digest of what the server keeps of the role's password.
    pub(crate) fn verifier(&self) -> &str {
        self.verifier.trim()
    }

    /// The server as this role reaches it.
    ///
    /// # Errors
    /// The password cannot be written to a file.
    pub(crate) fn server<'a>(&self, server: &Server<'a>) -> Result<Server<'a>> {
        self.server_as(&self.role, server)
    }

    /// The server as the keeper reaches it.
    ///
    /// # Errors
    /// There is no memory for its password.
    pub(crate) fn keeper<'a>(&self, server: &Server<'a>) -> Result<Server<'a>> {
        self.server_as(&self.keeper, server)
    }

    fn server_as<'a>(&self, role: &str, server: &Server<'a>) -> Result<Server<'a>> {
        let connection = server.connection.as_role(role, &self.password)?;
        Ok(Server { clients: server.clients.clone(), connection, cx: server.cx })
    }

    /// Lets it, and nobody else but superusers, into the database `place`, and guards that. The
    /// archive is in `encoding`.
    ///
    /// # Errors
    /// The server refuses, or does not let it log in.
    pub(crate) async fn take(&self, server: &Server<'_>, place: &str, encoding: &str) -> Result<()> {
        let (role, keeper, database) = (quoted(&self.role), quoted(&self.keeper), quoted(place));
        // It does not own the database: then its code could change settings of the database.
        let sql = format!(
            "ALTER ROLE {role} LOGIN; ALTER ROLE {keeper} LOGIN;
             REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC;
             GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {database} TO {role}; GRANT CONNECT ON DATABASE {database} TO {keeper}"
        );
        server.query_in(server.outside(place), &sql).await?;
        let own = self.log_in(server, place).await?;
        refuse_settings(&own, place).await?;
        self.guard.set(server, &own, place, encoding).await?;
        server.query_in(place, &format!("ALTER SCHEMA public OWNER TO {role}")).await.map(drop)
    }

    /// Lets it into a database that lives, where it has been given what it needs.
    ///
    /// # Errors
    /// The server does not let it log in.
    pub(crate) async fn enter<'a>(&self, server: &Server<'a>, place: &str) -> Result<Server<'a>> {
        let own = self.log_in(server, place).await?;
        refuse_settings(&own, place).await?;
        Ok(own)
    }

    async fn log_in<'a>(&self, server: &Server<'a>, place: &str) -> Result<Server<'a>> {
        let own = self.server(server)?;
        match own.query_in(place, "SELECT session_user").await {
            Ok(user) if user == self.role => Ok(own),
            Ok(_) => Err(Error::source_failed("the server logged in another role than the one that is to load")),
            Err(error) => Err(error
                .within("the snapshot would be loaded by a role without rights, but the server does not let it log in")
                .hint(format!("connect in a way that asks for passwords, such as TCP with scram-sha-256 in pg_hba.conf; or, {AS_SUPERUSER}"))),
        }
    }

    /// Gives it these rights on all that it owns in the database `place`, besides large objects.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn may(&self, server: &Server<'_>, place: &str, rights: Rights) -> Result<()> {
        let (tables, sequences) = (["r", "p", "v", "m", "f"].map(literal).join(", "), literal("S"));
        let steps: &[_] = match rights {
            Rights::Fill => &[
                (&tables, "REVOKE SELECT, UPDATE, DELETE, TRUNCATE ON TABLE", "FROM", "SELECT", true),
                (&sequences, "REVOKE ALL ON SEQUENCE", "FROM", "UPDATE", true),
            ],
            Rights::Read => &[
                (&tables, "GRANT ALL ON TABLE", "TO", "SELECT", false),
                (&sequences, "REVOKE ALL ON SEQUENCE", "FROM", "UPDATE", true),
                (&sequences, "GRANT SELECT ON SEQUENCE", "TO", "SELECT", false),
            ],
            Rights::All => &[
                (&tables, "GRANT ALL ON TABLE", "TO", "SELECT", false),
                (&sequences, "GRANT ALL ON SEQUENCE", "TO", "UPDATE", false),
            ],
        };
        let name = literal(&self.role);
        for &(kinds, verb, to, right, has) in steps {
            // Some at a time: what is changed may be locked to the end of a transaction.
            let (null, not) = if has { ("IS NULL OR", "") } else { ("IS NOT NULL AND", "NOT") };
            let left = format!(
                "FROM pg_class c WHERE c.relowner = (SELECT oid FROM pg_roles WHERE rolname = {name}) AND c.relkind IN ({kinds})
                 AND (c.relacl {null} {not} EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = c.relowner AND a.privilege_type = {}))
                 LIMIT {MAX_CHANGED}",
                literal(right)
            );
            let body = format!(
                "DECLARE made record; BEGIN FOR made IN SELECT c.oid::regclass AS name {left} LOOP
                 EXECUTE format('{verb} %s {to} %I', made.name, {name}); END LOOP; END"
            );
            while !server.query_in(place, &format!("SELECT 1 {left}")).await?.is_empty() {
                server.query_in(place, &format!("DO {}", literal(&body))).await?;
            }
        }
        Ok(())
    }

    /// Ends all that it does in the database `place`, for good. Code that it ran may have let
    /// somebody in under its name, or given away what it made: then nothing that was loaded can be
    /// trusted.
    ///
    /// # Errors
    /// It does not end; or something was changed that only such code changes.
    pub(crate) async fn close(&self, server: &Server<'_>, place: &str) -> Result<()> {
        let (role, keeper) = (quoted(&self.role), quoted(&self.keeper));
        server.query(&format!("ALTER ROLE {role} NOLOGIN; ALTER ROLE {keeper} NOLOGIN")).await?;
        self.end_sessions(server, place).await?;
        self.check(server, place).await
    }

    /// As [`Self::close`], before it goes on.
    ///
    /// # Errors
    /// As [`Self::close`].
    pub(crate) async fn pause(&self, server: &Server<'_>, place: &str) -> Result<()> {
        self.close(server, place).await?;
        let (role, keeper) = (quoted(&self.role), quoted(&self.keeper));
        server.query(&format!("ALTER ROLE {role} LOGIN; ALTER ROLE {keeper} LOGIN")).await.map(drop)
    }

    /// Sends everybody but us away who is in the database `place`, or logged in as it.
    async fn end_sessions(&self, server: &Server<'_>, place: &str) -> Result<()> {
        let end = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE (usename IN ({}, {}) OR datname = {}) AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
            literal(&self.role),
            literal(&self.keeper),
            literal(place)
        );
        let mut attempts = 0;
        while server.query_in(server.outside(place), &end).await?.trim() != "0" {
            attempts += 1;
            if attempts > MAX_ATTEMPTS_TO_END {
                return Err(Error::source_failed("a session of the role that loads does not end"));
            }
            tokio::time::sleep(END_INTERVAL).await;
        }
        Ok(())
    }

    /// Takes the guard off the database `place`.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn unguard(&self, server: &Server<'_>, place: &str) -> Result<()> {
        self.guard.remove(server, place).await
    }

    /// Looks whether code that it ran changed its password, settings or memberships, gave anything
    /// in the database `place` to others, or made large objects.
    ///
    /// # Errors
    /// It did.
    pub(crate) async fn check(&self, server: &Server<'_>, place: &str) -> Result<()> {
        let oid = |role: &str| format!("(SELECT oid FROM pg_roles WHERE rolname = {})", literal(role));
        let (me, keeper) = (oid(&self.role), oid(&self.keeper));
        let changed = format!(
            "SELECT concat_ws(', ',
                (SELECT 'settings of the role' WHERE EXISTS (SELECT FROM pg_db_role_setting WHERE setrole = {me})),
                (SELECT 'memberships of the role' WHERE EXISTS (SELECT FROM pg_auth_members WHERE roleid = {me} OR member = {me})),
                (SELECT 'large objects' WHERE EXISTS (SELECT FROM pg_largeobject_metadata WHERE lomowner = {me})),
                (SELECT 'an owner or a right' WHERE EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass
                    AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND deptype IN ('o', 'a')
                    AND classid <> 'pg_user_mapping'::regclass
                    AND refobjid NOT IN ({me}, {keeper}, (SELECT oid FROM pg_roles WHERE rolname = current_user)))))"
        );
        let mut changed = server.query_in(place, &changed).await?;
        if server.query(&verifier(&self.role)).await? != self.verifier {
            changed.push_str(" the password of the role");
        }
        if changed.trim().is_empty() {
            return Ok(());
        }
        Err(Error::source_failed(format!("code of the snapshot changed, while it was loaded: {}", changed.trim()))
            .hint(
                "what was loaded is dropped; look for ALTER ROLE, GRANT, REASSIGN and lo_create in the functions of the snapshot",
            ))
    }

    /// Gives back what the server has from the start in the database `place`.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn give_back_public(&self, server: &Server<'_>, place: &str) -> Result<()> {
        let owner = if self.major < PUBLIC_OF_OWNER {
            server.query_in(place, "SELECT rolname FROM pg_roles WHERE oid = 10").await?
        } else {
            "pg_database_owner".to_owned()
        };
        server.query_in(place, &format!("ALTER SCHEMA public OWNER TO {}", quoted(&owner))).await.map(drop)
    }

    /// Gives all that it still owns in the database `place` to others: extensions, which have no
    /// owner of their own in an archive, to the role that restores, and the rest to
    /// `otherwise`, which has no rights.
    ///
    /// # Errors
    /// The server refuses, or something would be left for the role that restores.
    pub(crate) async fn give_back(&self, server: &Server<'_>, place: &str, otherwise: &str) -> Result<()> {
        let (role, keeper) = (quoted(&self.role), quoted(&self.keeper));
        let owned = format!(
            "FROM pg_shdepend d, pg_identify_object(d.classid, d.objid, 0) o
             WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND d.deptype = 'o'
                AND d.refclassid = 'pg_authid'::regclass AND d.refobjid IN ({}::regrole, {}::regrole)
                AND d.classid <> 'pg_extension'::regclass AND d.classid <> 'pg_default_acl'::regclass
                AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')",
            literal(&role),
            literal(&keeper)
        );
        let body = format!(
            "DECLARE left_over record; BEGIN FOR left_over IN SELECT o.type, o.identity {owned} LOOP
                BEGIN EXECUTE format('ALTER %s %s OWNER TO %I', CASE left_over.type WHEN 'statistics object' THEN 'STATISTICS'
                    WHEN 'foreign-data wrapper' THEN 'FOREIGN DATA WRAPPER' ELSE left_over.type END, left_over.identity, {});
                EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END",
            literal(otherwise)
        );
        server.query_in(place, &format!("DO {}", literal(&body))).await?;
        let left = rows(&server.query_in(place, &format!("SELECT o.type || ' ' || o.identity {owned}")).await?);
        if !left.is_empty() {
            let left = several(left.iter().map(String::as_str));
            return Err(Error::source_failed(format!("nobody but a superuser would own what was loaded: {left}")));
        }
        let sql = format!("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}, {keeper}");
        server.query_in(place, &sql).await.map(drop)
    }

    /// Forgets what the server found out about values that functions give, in the database
    /// `place`: while rows were read, code may have put there what it read.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn forget_statistics(&self, server: &Server<'_>, place: &str) -> Result<()> {
        // Lengths of ranges (kind 6) are told by a function of the type, whose call needs no right.
        let mut sql = "DELETE FROM pg_statistic s USING pg_class c WHERE c.oid = s.starelid AND c.oid >= 16384
                AND (c.relkind IN ('i', 'I') OR 6 IN (stakind1, stakind2, stakind3, stakind4, stakind5))"
            .to_owned();
        if self.major >= STATISTICS_OF_EXPRESSIONS {
            sql.push_str(
                "; UPDATE pg_statistic_ext_data d SET stxdndistinct = NULL, stxddependencies = NULL, stxdmcv = NULL, stxdexpr = NULL
                FROM pg_statistic_ext e WHERE e.oid = d.stxoid AND e.oid >= 16384 AND e.stxexprs IS NOT NULL",
            );
        }
        server.query_in(place, &sql).await.map(drop)
    }

    /// Drops both roles although the restore was cancelled, or because it was.
    pub(crate) async fn drop(&self, server: &Server<'_>) {
        let cx = WorkContext { cancel: CancellationToken::new(), ..server.cx.clone() };
        let database = server.connection.maintenance_database();
        let sql = format!("DROP ROLE IF EXISTS {}, {}", quoted(&self.role), quoted(&self.keeper));
        if let Err(error) = query(&server.clients, &server.connection, database, &sql, &cx).await {
            tracing::warn!(role = self.role, error = %error.chain(), "the temporary roles could not be dropped; drop this one and its keeper by hand");
        }
    }
}

/// Refuses settings under which the guard sees nothing, or everybody may change large objects.
async fn refuse_settings(own: &Server<'_>, place: &str) -> Result<()> {
    let sql = "SELECT name || ' = ' || setting FROM pg_settings
        WHERE name = 'event_triggers' AND setting = 'off' OR name = 'lo_compat_privileges' AND setting = 'on'";
    let set = rows(&own.query_in(place, sql).await?);
    if set.is_empty() {
        return Ok(());
    }
    let set = set.join(", ");
    Err(Error::usage(format!("code of the snapshot cannot be kept from what belongs to others: the server has {set}"))
        .hint(format!("reset it while the restore runs (ALTER SYSTEM, ALTER ROLE ALL); or, {AS_SUPERUSER}")))
}

/// Asks for a digest of what the server keeps of a role's password.
fn verifier(role: &str) -> String {
    format!("SELECT md5(coalesce(rolpassword, '')) FROM pg_authid WHERE rolname = {}", literal(role))
}
