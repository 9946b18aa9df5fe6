//! Keeps the code of a dump from changing anything while the dump is loaded.
//!
//! The role that loads owns all that it makes. So a function of one user, called by a check or an
//! index, could change what belongs to others: replace their functions, add triggers, grant itself
//! rights, alter rows. The guard is an event trigger of the superuser's, and a trigger of his on
//! every table. Both refuse a change unless `pg_restore` asked for it itself. A statement that code
//! runs has more than one line of PostgreSQL's call stack above it, in whatever language the code
//! is; a statement of a client has none. The role cannot drop or disable the guard, which stays
//! until nothing belongs to the role any more. It also stands where `session_replication_role` is
//! `replica`; where `event_triggers` are off, nothing is loaded.
//!
//! Code that `pg_restore` calls could also change settings of the session, or of the role for later
//! sessions, and thereby what the next statement of `pg_restore` means. So the guard refuses
//! statements under other settings than those that the role had before any code could run.
//!
//! Nobody can log in as the role by a password that code gave it: then everything is refused. So it
//! is while the role has members. The guard does not see reads, sequences and large objects: see
//! [`super::phases`].

use lifeboat_base::Result;

use super::server::Server;
use super::sql::{FIELD_SEPARATOR, literal, quoted, rows};

/// No more tables lose their trigger in one transaction: each is locked to its end.
const UNGUARDED_AT_ONCE: usize = 500;

/// Settings by which the same statement of `pg_restore` could mean something else.
const MEANING_SETTINGS: &str =
    "SELECT name, setting FROM pg_settings WHERE name IN ('DateStyle', 'IntervalStyle', 'TimeZone',
    'array_nulls', 'backslash_quote', 'lc_monetary', 'lc_numeric', 'timezone_abbreviations', 'transform_null_equals')";

/// What both triggers do, as the body of a function. The path is looked at before anything is
/// called by an unqualified name. A superuser who gives a right as another is let through.
const REFUSE: &str = "
    IF (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user)
        OR pg_catalog.strpos(pg_catalog.current_query(), 'CREATE EXTENSION ') OPERATOR(pg_catalog.=) 1 THEN
        RETURN {nothing};
    END IF;
    IF session_user OPERATOR(pg_catalog.<>) {loader} AND session_user OPERATOR(pg_catalog.<>) {keeper} THEN
        IF session_user OPERATOR(pg_catalog.=) current_user AND (SELECT r.rolsuper
            FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a
            JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) a.usesysid) THEN
            RETURN {nothing};
        END IF;
        RAISE EXCEPTION 'only a restore may change anything now';
    END IF;
    changed := {guard}.changed();
    IF changed IS NOT NULL THEN
        RAISE EXCEPTION 'code that was restored has changed %', changed;
    END IF;
    GET DIAGNOSTICS stack = PG_CONTEXT;
    IF pg_catalog.strpos(stack, E'\\n') OPERATOR(pg_catalog.>) 0 THEN
        RAISE EXCEPTION 'code may change nothing while it is restored';
    END IF;
    IF NOT (pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.=) ANY (ARRAY['', '\"\"', 'pg_catalog'])) THEN
        RAISE EXCEPTION 'code that was restored has changed search_path';
    END IF;
    IF current_setting('standard_conforming_strings') <> 'on' OR current_setting('client_encoding') <> {encoding}
        OR EXISTS (SELECT FROM pg_catalog.pg_settings s JOIN (VALUES {usual}) AS usual (name, value) ON usual.name = s.name
            WHERE s.setting <> usual.value) THEN
        RAISE EXCEPTION 'code that was restored has changed settings';
    END IF;";

/// The guard of one database.
pub(crate) struct Guard {
    /// The name of its schema and of its triggers.
    name: String,
    loader: String,
    keeper: String,
    /// A digest of what the server keeps of its password.
    verifier: String,
}

impl Guard {
    /// The guard of a database into which the roles `loader` and `keeper` load.
    pub(crate) fn of(loader: &str, keeper: &str, verifier: &str) -> Self {
        Self {
            name: loader.replace("loader", "guard"),
            loader: loader.to_owned(),
            keeper: keeper.to_owned(),
            verifier: verifier.trim().to_owned(),
        }
    }

    /// Guards the database `place`, in which there is nothing yet. The archive is in `encoding`;
    /// the role that loads reaches the server as `own`.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn set(&self, server: &Server<'_>, own: &Server<'_>, place: &str, encoding: &str) -> Result<()> {
        let guard = quoted(&self.name);
        let usual: Vec<String> = rows(&own.query_in(place, MEANING_SETTINGS).await?)
            .iter()
            .filter_map(|row| row.split_once(FIELD_SEPARATOR))
            .map(|(name, value)| format!("({}, {})", literal(name), literal(value)))
            .collect();
        let encoding = format!("pg_encoding_to_char(pg_char_to_encoding({}))", literal(encoding));
        let refuse = |nothing: &str| {
            let refuse = REFUSE.replace("{nothing}", nothing).replace("{encoding}", &encoding);
            let refuse = refuse.replace("{usual}", &usual.join(", ")).replace("{guard}", &guard);
            refuse.replace("{loader}", &literal(&self.loader)).replace("{keeper}", &literal(&self.keeper))
        };
        let body = |text: &str| literal(&format!("DECLARE stack text; changed text; made record; BEGIN {text} END"));
        let changed = literal(&format!(
            "DECLARE me oid; BEGIN
                me := (SELECT oid FROM pg_authid WHERE rolname = {} AND md5(coalesce(rolpassword, '')) = {});
                IF me IS NULL THEN RETURN 'the password of the role'; END IF;
                IF EXISTS (SELECT FROM pg_db_role_setting WHERE setrole = me) THEN RETURN 'settings of the role'; END IF;
                IF EXISTS (SELECT FROM pg_auth_members WHERE roleid = me OR member = me) THEN
                    RETURN 'memberships of the role';
                END IF;
                RETURN NULL;
            END",
            literal(&self.loader),
            literal(&self.verifier)
        ));
        let arm = format!(
            "FOR made IN SELECT c.oid::regclass AS name FROM pg_event_trigger_ddl_commands() e JOIN pg_class c ON c.oid = e.objid
                WHERE e.classid = 'pg_class'::regclass AND c.relkind IN ('r', 'p') LOOP
                EXECUTE format('CREATE TRIGGER %I BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT EXECUTE PROCEDURE %I.rows()',
                    {name}, made.name, {name});
                EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', made.name, {name});
            END LOOP;",
            name = literal(&self.name)
        );
        let sql = format!(
            "CREATE SCHEMA {guard}; GRANT USAGE ON SCHEMA {guard} TO {loader}, {keeper};
             CREATE FUNCTION {guard}.changed() RETURNS text LANGUAGE plpgsql SECURITY DEFINER
                SET search_path = pg_catalog, pg_temp AS {changed};
             CREATE FUNCTION {guard}.definitions() RETURNS event_trigger LANGUAGE plpgsql AS {};
             CREATE FUNCTION {guard}.rows() RETURNS trigger LANGUAGE plpgsql AS {};
             CREATE FUNCTION {guard}.arm() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
                SET search_path = pg_catalog, pg_temp AS {};
             CREATE EVENT TRIGGER {} ON ddl_command_start EXECUTE PROCEDURE {guard}.definitions();
             CREATE EVENT TRIGGER {guard} ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
                EXECUTE PROCEDURE {guard}.arm();
             ALTER EVENT TRIGGER {} ENABLE ALWAYS;
             ALTER EVENT TRIGGER {guard} ENABLE ALWAYS",
            body(&refuse("")),
            body(&format!("{} RETURN NULL;", refuse("NULL"))),
            body(&arm),
            self.start(),
            self.start(),
            loader = quoted(&self.loader),
            keeper = quoted(&self.keeper),
        );
        server.query_in(place, &sql).await.map(drop)
    }

    fn start(&self) -> String {
        quoted(&format!("{}-start", self.name))
    }

    /// Takes the guard off the database `place`.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn remove(&self, server: &Server<'_>, place: &str) -> Result<()> {
        let guard = quoted(&self.name);
        server.query_in(place, &format!("DROP EVENT TRIGGER {}; DROP EVENT TRIGGER {guard}", self.start())).await?;
        // The names of tables stay in the server: they may be in any encoding.
        let some = format!(
            "FOR made IN SELECT t.tgrelid::regclass AS name FROM pg_trigger t WHERE t.tgname = {name}
                AND t.tgfoid = '{guard}.rows()'::regprocedure LIMIT {UNGUARDED_AT_ONCE} LOOP
                EXECUTE format('DROP TRIGGER %I ON %s', {name}, made.name);
            END LOOP;",
            name = literal(&self.name)
        );
        let some = format!("DO {}", literal(&format!("DECLARE made record; BEGIN {some} END")));
        let left = format!("SELECT 1 FROM pg_trigger WHERE tgfoid = '{guard}.rows()'::regprocedure LIMIT 1");
        while !rows(&server.query_in(place, &left).await?).is_empty() {
            server.query_in(place, &some).await?;
        }
        let sql = format!(
            "DROP FUNCTION {guard}.definitions(), {guard}.rows(), {guard}.arm(), {guard}.changed(); DROP SCHEMA {guard}"
        );
        server.query_in(place, &sql).await.map(drop)
    }
}
