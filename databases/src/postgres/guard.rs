//! Keeps the code of a dump from changing anything while the dump is loaded.
//!
//! The role that loads owns all that it makes. So a function of one user, called by a check or an
//! index, could change what belongs to others: replace their functions, add triggers, grant itself
//! rights, alter rows. The guard is an event trigger of the superuser's, and a trigger of his on
//! every table. Both refuse a change unless `pg_restore` asked for it itself. A statement that code
//! runs has more than one line of PostgreSQL's call stack above it, in whatever language the code
//! is; a statement of a client has none. The role cannot drop or disable the guard.
//!
//! Code that `pg_restore` calls could also change settings of the session, and thereby what the
//! next statement of `pg_restore` means. So the guard refuses statements under changed settings.
//!
//! Nobody can log in as the role by a password that code gave it: then everything is refused. The
//! guard does not see reads, sequences and large objects: see [`super::phases`].

use lifeboat_base::Result;

use super::server::Server;
use super::sql::{literal, quoted, rows};

/// No more tables lose their trigger in one transaction: each is locked to its end.
const UNGUARDED_AT_ONCE: usize = 500;

/// What both triggers do, as the body of a function. The path is looked at before anything is
/// called by an unqualified name.
const REFUSE: &str = "
    IF (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user)
        OR pg_catalog.strpos(pg_catalog.current_query(), 'CREATE EXTENSION ') OPERATOR(pg_catalog.=) 1 THEN
        RETURN {nothing};
    END IF;
    IF session_user OPERATOR(pg_catalog.<>) {loader} OR NOT {guard}.known() THEN
        RAISE EXCEPTION 'only a restore may change anything now';
    END IF;
    GET DIAGNOSTICS stack = PG_CONTEXT;
    IF pg_catalog.strpos(stack, E'\\n') OPERATOR(pg_catalog.>) 0 THEN
        RAISE EXCEPTION 'code may change nothing while it is restored';
    END IF;
    IF NOT (pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.=) ANY (ARRAY['', '\"\"', 'pg_catalog'])) THEN
        RAISE EXCEPTION 'code that was restored has changed search_path';
    END IF;
    IF current_setting('standard_conforming_strings') <> 'on' OR current_setting('client_encoding') <> {encoding}
        OR EXISTS (SELECT FROM pg_catalog.pg_settings WHERE setting <> reset_val AND name IN ('DateStyle',
            'IntervalStyle', 'TimeZone', 'array_nulls', 'backslash_quote', 'lc_monetary', 'lc_numeric',
            'transform_null_equals')) THEN
        RAISE EXCEPTION 'code that was restored has changed settings';
    END IF;";

/// The guard of one database.
pub(crate) struct Guard {
    /// The name of its schema and of its triggers.
    name: String,
    loader: String,
    /// A digest of what the server keeps of its password.
    verifier: String,
}

impl Guard {
    /// The guard of a database into which the role `loader` loads.
    pub(crate) fn of(loader: &str, verifier: &str) -> Self {
        Self {
            name: loader.replace("loader", "guard"),
            loader: loader.to_owned(),
            verifier: verifier.trim().to_owned(),
        }
    }

    /// Guards the database `place`, in which there is nothing yet. The archive is in `encoding`.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn set(&self, server: &Server<'_>, place: &str, encoding: &str) -> Result<()> {
        let guard = quoted(&self.name);
        let encoding = format!("pg_encoding_to_char(pg_char_to_encoding({}))", literal(encoding));
        let refuse = |nothing: &str| {
            let refuse = REFUSE.replace("{nothing}", nothing).replace("{encoding}", &encoding);
            refuse.replace("{loader}", &literal(&self.loader)).replace("{guard}", &guard)
        };
        let body = |text: &str| literal(&format!("DECLARE stack text; made record; BEGIN {text} END"));
        let known = literal(&format!(
            "BEGIN RETURN (SELECT md5(coalesce(rolpassword, '')) = {} FROM pg_authid WHERE rolname = {}); END",
            literal(&self.verifier),
            literal(&self.loader)
        ));
        let arm = format!(
            "FOR made IN SELECT c.oid::regclass AS name FROM pg_event_trigger_ddl_commands() e JOIN pg_class c ON c.oid = e.objid
                WHERE e.classid = 'pg_class'::regclass AND c.relkind IN ('r', 'p') LOOP
                EXECUTE format('CREATE TRIGGER %I BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT EXECUTE PROCEDURE %I.rows()',
                    {name}, made.name, {name});
            END LOOP;",
            name = literal(&self.name)
        );
        let sql = format!(
            "CREATE SCHEMA {guard}; GRANT USAGE ON SCHEMA {guard} TO {loader};
             CREATE FUNCTION {guard}.known() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
                SET search_path = pg_catalog, pg_temp AS {known};
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
            "DROP FUNCTION {guard}.definitions(), {guard}.rows(), {guard}.arm(), {guard}.known(); DROP SCHEMA {guard}"
        );
        server.query_in(place, &sql).await.map(drop)
    }
}
