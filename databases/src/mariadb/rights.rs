//! What the account that dumps may do: `mariadb-dump` leaves out silently what it may not see.
//!
//! Without `TRIGGER` there are no triggers for it, and without a privilege on it there is no table
//! or database. So a capture asks first, and fails if something could be missing.

use std::collections::BTreeSet;

use lifeboat_base::{Error, Result};

use super::globals::Grant;
use super::server::MariaServer;
use super::tokens::statement;

/// What a dump needs in a database.
const NEEDED: [&str; 4] = ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"];
/// What lets an account see routines, beside `SELECT` on the tables that hold them.
const SHOW_ROUTINES: &str = "SHOW CREATE ROUTINE";
/// What lets it see the position in the binary log. The newer name comes first.
const POSITION: [&str; 3] = ["BINLOG MONITOR", "REPLICATION CLIENT", "SUPER"];
const ALL: &str = "ALL PRIVILEGES";

/// The privileges of the account that we are, its active roles included.
#[derive(Debug, Default)]
pub(super) struct AccountRights {
    global: BTreeSet<String>,
    /// On whole databases, as patterns.
    databases: Vec<(String, BTreeSet<String>)>,
    /// Whether it may read the tables that hold routines, or users, by a grant on them alone.
    system: BTreeSet<String>,
}

impl AccountRights {
    /// Asks the server.
    ///
    /// # Errors
    /// The server does not answer, or tells grants that are not understood.
    pub(super) async fn ask(server: &MariaServer<'_>) -> Result<Self> {
        let mut rights = Self::default();
        for line in server.column("SHOW GRANTS").await? {
            rights.add(&line)?;
        }
        Ok(rights)
    }

    fn add(&mut self, line: &str) -> Result<()> {
        let Some(grant) = Grant::parse(&statement(line)?) else { return Ok(()) };
        let privileges = grant.privileges().into_iter();
        match grant.object() {
            None if line.contains(" ON *.* ") => self.global.extend(privileges),
            None => {}
            Some(object) => match object.object {
                None => self.databases.push((object.database, privileges.collect())),
                Some(table) if object.database == "mysql" && grant.privileges().iter().any(|it| it == "SELECT") => {
                    self.system.insert(table);
                }
                Some(_) => {}
            },
        }
        Ok(())
    }

    fn has_global(&self, privilege: &str) -> bool {
        self.global.contains(ALL) || self.global.contains(privilege)
    }

    fn has_in(&self, database: &str, privilege: &str) -> bool {
        let fits = |pattern: &str| pattern.replace("\\_", "_").replace("\\%", "%") == database;
        let there = |privileges: &BTreeSet<String>| privileges.contains(ALL) || privileges.contains(privilege);
        self.has_global(privilege)
            || self.databases.iter().any(|(pattern, privileges)| fits(pattern) && there(privileges))
    }

    /// Whether it sees every database.
    pub(super) fn sees_all_databases(&self) -> bool {
        self.has_global("SHOW DATABASES") || self.has_global("SELECT")
    }

    /// Whether it may read what the server knows of users.
    pub(super) fn reads_users(&self) -> bool {
        self.has_in("mysql", "SELECT")
    }

    /// Whether it may read the position in the binary log.
    pub(super) fn reads_position(&self) -> bool {
        POSITION.iter().any(|privilege| self.has_global(privilege))
    }

    /// What it lacks to dump a database, as an error.
    pub(super) fn lacking(&self, database: &str, account: &str) -> Option<Error> {
        let mut missing: Vec<&str> = NEEDED.into_iter().filter(|privilege| !self.has_in(database, privilege)).collect();
        let account = account.escape_debug();
        if !missing.is_empty() {
            missing.sort_unstable();
            let missing = missing.join(", ");
            let what = format!("database {} cannot be dumped: {account} lacks {missing}", database.escape_debug());
            return Some(Error::source_failed(what).hint("GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* to it"));
        }
        if self.reads_users() || self.has_in(database, SHOW_ROUTINES) || self.system.contains("proc") {
            return None;
        }
        let what =
            format!("database {} cannot be dumped: {account} does not see its routines", database.escape_debug());
        Some(Error::source_failed(what).hint("GRANT SELECT ON mysql.proc to it"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn rights(lines: &[&str]) -> AccountRights {
        let mut rights = AccountRights::default();
        lines.iter().for_each(|line| rights.add(line).unwrap());
        rights
    }

    #[test]
    fn what_a_dump_would_leave_out_is_told() {
        let usage = "GRANT USAGE ON *.* TO `b`@`%` IDENTIFIED BY PASSWORD '*X'";
        let all = "GRANT SELECT, SHOW VIEW, EVENT, TRIGGER ON *.* TO `b`@`%`";
        let here = "GRANT SELECT, SHOW VIEW, EVENT, TRIGGER ON `sh\\_op`.* TO `b`@`%`";
        for (lines, lacks) in [
            (&[usage][..], Some("EVENT, SELECT, SHOW VIEW, TRIGGER")),
            (&[all], None),
            (&["GRANT ALL PRIVILEGES ON *.* TO `b`@`%` WITH GRANT OPTION"], None),
            (&["GRANT SELECT, SHOW VIEW, EVENT ON *.* TO `b`@`%`"], Some("lacks TRIGGER")),
            (&[usage, here], Some("routines")),
            (&[usage, here, "GRANT SELECT ON `mysql`.`proc` TO `b`@`%`"], None),
            (&[usage, "GRANT SELECT, SHOW VIEW, EVENT, TRIGGER ON `shop`.* TO `b`@`%`"], Some("lacks")),
            (&[usage, here, "GRANT SELECT (`a`) ON `mysql`.`proc` TO `b`@`%`"], Some("routines")),
        ] {
            let found = rights(lines).lacking("sh_op", "b@%");
            assert_eq!(found.is_some(), lacks.is_some(), "{lines:?}");
            assert!(found.is_none_or(|error| error.message().contains(lacks.unwrap_or_default())), "{lines:?}");
        }
        assert!(!rights(&[usage, here]).sees_all_databases() && rights(&[all]).sees_all_databases());
    }
}
