//! Asks a server for its users, roles and grants, and makes them in another.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Error, Result};

use super::globals::{Account, Grant, GrantedObject, MariaDatabase, MariaGlobals, create_account, set_default_role};
use super::server::{MariaServer, SYSTEM_DATABASES};
use super::tokens::{MariaToken, name, statement, text};

/// Accounts of the server itself: each server has its own.
const SYSTEM_ACCOUNTS: [(&str, &str); 1] = [("mariadb.sys", "localhost")];
/// What a server says of an account that is in its tables, and that it does not know.
const IGNORED_ACCOUNT: &str = "ERROR 1133";
/// Roles come first, as users have them.
const ACCOUNTS: &str = "SELECT is_role, User, Host FROM mysql.user ORDER BY is_role DESC, User, Host";
/// Objects on which somebody can have grants.
const OBJECTS: &str = "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES";
/// A server writes names of routines in grants in lower case.
const ROUTINES: &str = "SELECT ROUTINE_SCHEMA, LOWER(ROUTINE_NAME) FROM information_schema.ROUTINES";

/// The objects of a server on which somebody can have grants.
#[derive(Debug)]
pub(super) struct GrantObjects {
    tables: BTreeSet<Vec<String>>,
    routines: BTreeSet<Vec<String>>,
}

impl GrantObjects {
    /// Asks the server.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn ask(server: &MariaServer<'_>) -> Result<Self> {
        let tables = server.rows(OBJECTS).await?.into_iter().collect();
        let routines = server.rows(ROUTINES).await?.into_iter().collect();
        Ok(Self { tables, routines })
    }

    fn have(&self, of: &GrantedObject) -> bool {
        let named = vec![of.database.clone(), of.object.clone().unwrap_or_default()];
        if of.routine { self.routines.contains(&named) } else { self.tables.contains(&named) }
    }

    /// Whether the server takes a grant, if it has these databases of a snapshot.
    pub(super) fn take(&self, grant: &Grant, databases: &GrantDatabases) -> bool {
        grant.object().is_none_or(|object| {
            !databases.replaced.contains(&object.database)
                && (object.object.is_none()
                    || databases.loaded.contains(&object.database)
                    || (is_of_system(&object.database) && self.have(&object)))
        })
    }
}

/// The databases that grants can mean.
pub(super) struct GrantDatabases {
    /// Those of the snapshot that were loaded under their own names.
    pub(super) loaded: Vec<String>,
    /// Names under which others were loaded: a grant on such a name means another database.
    pub(super) replaced: Vec<String>,
}

impl GrantDatabases {
    /// All of them have their own names.
    pub(super) fn under_own_names(loaded: Vec<String>) -> Self {
        Self { loaded, replaced: Vec::new() }
    }
}

fn is_of_system(database: &str) -> bool {
    SYSTEM_DATABASES.contains(&database.to_ascii_lowercase().as_str())
}

/// What a server says of databases, users and grants, and what it leaves out of that, in words.
///
/// `databases` are those of the snapshot. Grants on objects that do not exist any more are left
/// out: no server would take them.
///
/// # Errors
/// The server does not answer, or says what is not understood.
pub(super) async fn globals(
    server: &MariaServer<'_>,
    databases: &[String],
    with_users: bool,
    without: Option<&Account>,
) -> Result<(MariaGlobals, Vec<String>)> {
    let mut globals = MariaGlobals { databases: describe(server, databases).await?, ..MariaGlobals::default() };
    let mut warnings = Vec::new();
    if !with_users {
        return Ok((globals, warnings));
    }
    let there = GrantObjects::ask(server).await?;
    for account in accounts(server).await?.into_iter().filter(|account| Some(account) != without) {
        if !account.is_public() {
            match clause(server, &account).await {
                Ok(clause) => globals.accounts.push((account.clone(), clause)),
                Err(error) if error.chain().contains(IGNORED_ACCOUNT) => {
                    let account = account.written();
                    let account = account.escape_debug();
                    warnings.push(format!("{account} is not backed up: the server ignores it (skip_name_resolve)"));
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        for line in server.column(&format!("SHOW GRANTS FOR {}", account.written())).await? {
            let tokens = statement(&line)?;
            if let Some(role) = default_role(&tokens) {
                globals.default_roles.push((role, account.clone()));
                continue;
            }
            let grant = Grant::parse(&tokens).ok_or_else(|| not_understood(&account))?;
            // What its roles have is told, too.
            if grant.to != account || grant.is_nothing() {
                continue;
            }
            let known = |object: &GrantedObject| databases.contains(&object.database) || is_of_system(&object.database);
            match grant.object().filter(known) {
                Some(object) if object.object.is_some() => {
                    let is_there = there.have(&object);
                    let named = [object.database, object.object.unwrap_or_default()];
                    let mut left_out = |what: &str| {
                        warnings.push(format!(
                            "a grant to {} on {} is not backed up: that does not exist any more",
                            account.written().escape_debug(),
                            what.escape_debug()
                        ));
                    };
                    if !is_there {
                        left_out(&named.join("."));
                        continue;
                    }
                    let gone = gone_columns(server, &named, grant.columns()).await?;
                    gone.iter().for_each(|column| left_out(&format!("{}.{column}", named.join("."))));
                    globals.grants.extend(grant.without_columns(&gone));
                }
                _ => globals.grants.push(grant),
            }
        }
    }
    Ok((globals, warnings))
}

/// Those of `columns` that a table does not have: `DROP COLUMN` leaves their grants.
async fn gone_columns(server: &MariaServer<'_>, table: &[String], columns: Vec<String>) -> Result<Vec<String>> {
    let [database, name] = table else { return Ok(Vec::new()) };
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    let there = format!(
        "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        text(database),
        text(name)
    );
    let there: BTreeSet<String> = server.column(&there).await?.iter().map(|column| column.to_lowercase()).collect();
    let gone: BTreeSet<String> = columns.into_iter().filter(|column| !there.contains(column)).collect();
    Ok(gone.into_iter().collect())
}

fn not_understood(account: &Account) -> Error {
    Error::source_failed(format!("what the server says of {} is not understood", account.written().escape_debug()))
}

fn default_role(tokens: &[MariaToken]) -> Option<String> {
    match tokens {
        [set, default, word, MariaToken::Name(role), ..]
            if set.is("SET") && default.is("DEFAULT") && word.is("ROLE") =>
        {
            Some(role.clone())
        }
        _ => None,
    }
}

async fn describe(server: &MariaServer<'_>, databases: &[String]) -> Result<Vec<MariaDatabase>> {
    const SCHEMATA: &str = "SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME, SCHEMA_COMMENT \
        FROM information_schema.SCHEMATA";
    let rows = server.rows(SCHEMATA).await?;
    let mut told: BTreeMap<String, MariaDatabase> = rows
        .into_iter()
        .filter_map(|row| {
            let [name, charset, collation, comment] = <[String; 4]>::try_from(row).ok()?;
            Some((name.clone(), MariaDatabase { name, charset, collation, comment }))
        })
        .collect();
    let gone =
        |name: &String| Error::source_failed(format!("the server has no database {} any more", name.escape_debug()));
    databases.iter().map(|name| told.remove(name).ok_or_else(|| gone(name))).collect()
}

async fn accounts(server: &MariaServer<'_>) -> Result<Vec<Account>> {
    let mut accounts = Vec::new();
    for row in server.rows(ACCOUNTS).await? {
        let [is_role, user, host] = <[String; 3]>::try_from(row).map_err(|_| Error::source_failed("odd accounts"))?;
        if !SYSTEM_ACCOUNTS.contains(&(&user, &host)) {
            accounts.push(Account { user, host: (is_role != "Y").then_some(host) });
        }
    }
    Ok(accounts)
}

/// What `CREATE USER` says of an account, after its name.
async fn clause(server: &MariaServer<'_>, account: &Account) -> Result<Vec<MariaToken>> {
    if account.host.is_none() {
        return Ok(Vec::new());
    }
    let told = server.value(&format!("SHOW CREATE USER {}", account.written())).await?;
    let begin = statement(&create_account(account, &[]))?;
    let tokens = statement(&told)?;
    tokens.strip_prefix(begin.as_slice()).map(<[_]>::to_vec).ok_or_else(|| not_understood(account))
}

/// The accounts that a server has.
///
/// # Errors
/// The server does not answer.
pub(super) async fn existing(server: &MariaServer<'_>) -> Result<Vec<Account>> {
    accounts(server).await
}

/// Makes the accounts that pass `wanted`, without their grants.
///
/// # Errors
/// The server refuses one.
pub(super) async fn make_accounts(
    server: &MariaServer<'_>,
    globals: &MariaGlobals,
    wanted: impl Fn(&Account) -> bool,
) -> Result<()> {
    for (account, clause) in globals.accounts.iter().filter(|(account, _)| wanted(account)) {
        let made = server.run(&create_account(account, clause)).await;
        made.map_err(|error| error.within(format!("cannot make {}", account.written().escape_debug())))?;
    }
    Ok(())
}

/// Gives the accounts that pass `wanted` what they have in `databases`, in the system's, on the
/// whole server, and of roles. Returns how many grants on other objects were passed over.
///
/// # Errors
/// The server refuses one.
pub(super) async fn make_grants(
    server: &MariaServer<'_>,
    globals: &MariaGlobals,
    databases: &GrantDatabases,
    wanted: impl Fn(&Account) -> bool,
) -> Result<usize> {
    let there = GrantObjects::ask(server).await?;
    let (takes, passed_over): (Vec<_>, Vec<_>) =
        globals.grants.iter().filter(|grant| wanted(&grant.to)).partition(|grant| there.take(grant, databases));
    // A role must have what it gives before somebody has it by the role.
    let (of_roles, others): (Vec<_>, Vec<_>) = takes.into_iter().partition(|grant| grant.role().is_some());
    for grant in others.into_iter().chain(of_roles) {
        let made = server.run(&grant.written()).await;
        made.map_err(|error| error.within(format!("cannot grant to {}", grant.to.written().escape_debug())))?;
    }
    for (role, account) in globals.default_roles.iter().filter(|(_, account)| wanted(account)) {
        server.run(&set_default_role(role, account)).await?;
    }
    Ok(passed_over.len())
}

/// The account that we are, from what `CURRENT_USER()` says.
pub(super) fn account_of(current: &str) -> Account {
    let (user, host) = current.rsplit_once('@').unwrap_or((current, "%"));
    Account { user: user.to_owned(), host: Some(host.to_owned()) }
}

/// The statements that make an account without a password, which may do everything.
pub(super) fn make_administrator(account: &Account) -> String {
    let who = account.written();
    format!(
        "CREATE USER {who}; GRANT ALL PRIVILEGES ON *.* TO {who} WITH GRANT OPTION; \
        GRANT PROXY ON ''@'%' TO {who} WITH GRANT OPTION"
    )
}

/// The statement that removes an account.
pub(super) fn drop_account(account: &Account) -> String {
    match account.host {
        Some(_) => format!("DROP USER {}", account.written()),
        None => format!("DROP ROLE {}", name(&account.user)),
    }
}
