//! Tells client tools where to connect: by environment variables and a password file, never by
//! argv.
//!
//! The password file lies in memory alone. Only tools that are to connect get it, as a descriptor:
//! nothing is left behind, and a full disk costs no backup.

use std::ffi::OsString;
use std::fs::File;
use std::sync::Arc;

use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};
use zeroize::Zeroizing;

use super::settings::{PostgresConnection, is_place};
use super::sql::{conninfo, conninfo_value};
use crate::database::WorkContext;
use crate::tool::process::{INHERITED_FILE, Invocation};
use crate::tool::secret_file::{password_line, secret_file};

/// Variables that say where the service files and passwords of Lifeboat's user are.
pub(super) const INHERITED_VARIABLES: [&str; 3] = ["PGSERVICEFILE", "PGSYSCONFDIR", "PGPASSFILE"];

/// Settings of every session, of our statements and of the tools'. They prevail over what `ALTER
/// DATABASE` and `ALTER ROLE` set, so an owner of a database cannot decide which function a name of
/// ours means, as whom we work, that a statement is cut short, that a warning is not heard, or that
/// a restore may not write. Where a service file says otherwise, [`super::server`] refuses to work.
const SAFE_SETTINGS: &str = "-c role=none -c search_path=pg_catalog -c statement_timeout=0 \
    -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off \
    -c client_min_messages=notice";
/// More of them, each with the first version that knows it: older ones refuse a session that asks.
const NEWER_SETTINGS: [(u32, &str); 2] = [(14, " -c idle_session_timeout=0"), (17, " -c transaction_timeout=0")];
/// What a session with [`SAFE_SETTINGS`] answers.
pub(super) const SEARCH_PATH: &str = "pg_catalog";
/// Settings on which the text of a dump depends. They are the same for every capture, so that a
/// drill on another server dumps the same text. `lc_monetary` is not one of them: `money` must stay
/// as the captured server reads it, whoever loads the dump.
const TEXT_SETTINGS: &str = "-c TimeZone=UTC -c bytea_output=hex -c xmlbinary=base64 \
    -c standard_conforming_strings=on -c quote_all_identifiers=off";
/// The detail of a snapshot that was dumped with [`TEXT_SETTINGS`].
pub(super) const SETTLED_TEXT: &str = "settled_text";
/// The variable that hands settings to a session.
const SETTINGS_VARIABLE: &str = "PGOPTIONS";

/// What client tools get to reach one server.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    variables: Vec<(&'static str, OsString)>,
    password_file: Option<Arc<File>>,
    database: Option<String>,
    /// The role to connect as, whatever else says so.
    role: Option<String>,
    /// Those of [`NEWER_SETTINGS`] that the server knows.
    newer: String,
}

impl Connection {
    /// Prepares the environment.
    ///
    /// # Errors
    /// There is no memory for the password file, or the URL has an unknown option.
    pub(crate) fn new(to: &PostgresConnection, password: Option<&Secret>, cx: &WorkContext) -> Result<Self> {
        let mut variables: Vec<(&'static str, OsString)> =
            vec![("PGCONNECT_TIMEOUT", "20".into()), ("PGAPPNAME", "lifeboat".into())];
        let mut database = None;
        match to {
            PostgresConnection::Service(service) => variables.push(("PGSERVICE", service.into())),
            PostgresConnection::Socket { directory, port, user } => {
                variables.push(("PGHOST", directory.into()));
                variables.push(("PGPORT", port.to_string().into()));
                variables.extend(user.as_ref().map(|user| ("PGUSER", OsString::from(user))));
            }
            PostgresConnection::Url(url) => database = from_url(url, &mut variables)?,
        }
        let given = variables.iter().position(|(name, _)| *name == SETTINGS_VARIABLE);
        let mut settings = given.map(|at| variables.remove(at).1).unwrap_or_default();
        settings.push(format!(" {SAFE_SETTINGS} {TEXT_SETTINGS}"));
        variables.push((SETTINGS_VARIABLE, settings));
        // The service files and passwords of Lifeboat's user stay usable.
        variables
            .extend(INHERITED_VARIABLES.iter().filter_map(|name| Some((*name, cx.environment.get(name)?.to_owned()))));
        let mut connection = Self { variables, password_file: None, database, role: None, newer: String::new() };
        if let Some(password) = password {
            connection.set_password(password)?;
        }
        Ok(connection)
    }

    /// Lets a tool connect.
    pub(crate) fn give(&self, tool: Invocation) -> Invocation {
        let tool = tool.envs(self.variables.iter().map(|(name, value)| (*name, value.as_os_str())));
        match &self.password_file {
            Some(file) => tool.inherits(file.clone()),
            None => tool,
        }
    }

    fn set_password(&mut self, password: &Secret) -> Result<()> {
        self.variables.retain(|(name, _)| *name != "PGPASSFILE");
        self.variables.push(("PGPASSFILE", INHERITED_FILE.into()));
        self.password_file = Some(Arc::new(password_file(password)?));
        Ok(())
    }

    /// With all settings that a server of this version knows.
    pub(crate) fn of_version(mut self, major: u32) -> Self {
        let known = NEWER_SETTINGS.iter().filter(|(since, _)| *since <= major).map(|(_, setting)| *setting);
        let known: String = known.collect();
        let settings = self.variables.iter_mut().filter(|(name, _)| *name == SETTINGS_VARIABLE);
        settings.for_each(|(_, settings)| settings.push(&known));
        self.newer = known;
        self
    }

    /// As it is for snapshots that were captured before the text of dumps was settled: with the
    /// server's own settings.
    pub(crate) fn with_text_of_the_server(self) -> Self {
        self.with_settings(SAFE_SETTINGS)
    }

    /// With no setting but these, which are `-c name=value`, one after the other, and limits of
    /// time.
    pub(crate) fn with_settings(mut self, settings: &str) -> Self {
        self.variables.retain(|(name, _)| *name != SETTINGS_VARIABLE);
        self.variables.push((SETTINGS_VARIABLE, format!("{settings}{}", self.newer).into()));
        self
    }

    /// With this setting besides the usual ones.
    pub(crate) fn and_setting(mut self, setting: &str) -> Self {
        let usual = self.variables.iter_mut().filter(|(name, _)| *name == SETTINGS_VARIABLE);
        usual.for_each(|(_, settings)| settings.push(format!(" {setting}")));
        self
    }

    /// To the same server as another role, with its password.
    ///
    /// # Errors
    /// There is no memory for the password file.
    pub(crate) fn as_role(&self, role: &str, password: &Secret) -> Result<Self> {
        let (variables, database, newer) = (self.variables.clone(), self.database.clone(), self.newer.clone());
        let mut other = Self { variables, password_file: None, database, role: Some(role.to_owned()), newer };
        other.set_password(password)?;
        Ok(other)
    }

    /// A database as a connection string. It prevails over what variables and a service file say.
    pub(crate) fn conninfo(&self, database: &str) -> String {
        let database = conninfo(database);
        // An empty password is none, and keeps that of a service out.
        let whose = |role| format!("{database} user={} password=''", conninfo_value(role));
        self.role.as_ref().map_or(database.clone(), |role| whose(role))
    }

    /// The database to connect to for questions about the server.
    pub(crate) fn maintenance_database(&self) -> &str {
        self.database.as_deref().unwrap_or("postgres")
    }
}

/// A password file in memory.
fn password_file(password: &Secret) -> Result<File> {
    let escaped = Zeroizing::new(password_line(password)?.replace('\\', "\\\\").replace(':', "\\:"));
    secret_file(&[b"*:*:*:*:", escaped.as_bytes(), b"\n"])
}

fn from_url(url: &url::Url, variables: &mut Vec<(&'static str, OsString)>) -> Result<Option<String>> {
    let decode = |text: &str| -> String {
        let pairs = format!("x={}", text.replace('+', "%2B"));
        url::form_urlencoded::parse(pairs.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    if let Some(host) = url.host_str().filter(|host| !host.is_empty()) {
        variables.push(("PGHOST", decode(host.trim_matches(['[', ']'])).into()));
    }
    variables.extend(url.port().map(|port| ("PGPORT", port.to_string().into())));
    if !url.username().is_empty() {
        variables.push(("PGUSER", decode(url.username()).into()));
    }
    let mut database = Some(decode(url.path().trim_start_matches('/'))).filter(|name| !name.is_empty());
    for (key, value) in url.query_pairs().filter(|(key, value)| !is_place(key) || !value.is_empty()) {
        let name = match key.as_ref() {
            "host" => "PGHOST",
            "hostaddr" => "PGHOSTADDR",
            "port" => "PGPORT",
            "user" => "PGUSER",
            "sslmode" => "PGSSLMODE",
            "sslrootcert" => "PGSSLROOTCERT",
            "sslcert" => "PGSSLCERT",
            "sslkey" => "PGSSLKEY",
            "sslcrl" => "PGSSLCRL",
            "channel_binding" => "PGCHANNELBINDING",
            "target_session_attrs" => "PGTARGETSESSIONATTRS",
            "options" => SETTINGS_VARIABLE,
            "application_name" => "PGAPPNAME",
            "connect_timeout" => "PGCONNECT_TIMEOUT",
            "gssencmode" => "PGGSSENCMODE",
            "dbname" => {
                database = Some(value.into_owned());
                continue;
            }
            other => {
                return Err(Error::configuration(format!("the PostgreSQL URL has an unknown option `{other}`"))
                    .hint("write it into a service of pg_service.conf, and use service = \"…\""));
            }
        };
        variables.retain(|(known, _)| *known != name);
        variables.push((name, value.into_owned().into()));
    }
    Ok(database)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(url: &str) -> Result<(Vec<String>, Option<String>)> {
        let url = url.parse().map_err(|_| Error::failed("not a URL"))?;
        let mut variables = Vec::new();
        let database = from_url(&url, &mut variables)?;
        let shown = variables.iter().map(|(name, value)| format!("{name}={}", value.to_string_lossy())).collect();
        Ok((shown, database))
    }

    #[test]
    fn urls_become_environment() -> Result<()> {
        let (found, database) = variables("postgresql://b%40ckup@db.example:5433/my%20shop?sslmode=verify-full")?;
        assert_eq!(found, ["PGHOST=db.example", "PGPORT=5433", "PGUSER=b@ckup", "PGSSLMODE=verify-full"]);
        assert_eq!(database.as_deref(), Some("my shop"));
        let (found, database) = variables("postgresql:///shop?host=/run/postgresql&port=5434")?;
        assert_eq!(found, ["PGHOST=/run/postgresql", "PGPORT=5434"]);
        assert_eq!(database.as_deref(), Some("shop"));
        // As what refuses a server without a certificate reads it.
        let (found, _) = variables("postgresql://db/?host=&hostaddr=192.0.2.1&hostaddr=")?;
        assert_eq!(found, ["PGHOST=db", "PGHOSTADDR=192.0.2.1"]);
        assert!(variables("postgresql://db/?nonsense=1").is_err());
        Ok(())
    }
}
