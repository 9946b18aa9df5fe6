//! What the server or a tool says when something fails, with the one thing to do about that cause.

use lifeboat_base::Error;

use crate::tool::causes::{self, Cause};

/// What is said, and what to do about it. The first that fits counts.
const CAUSES: [Cause; 20] = [
    (
        &["SSL connection error", "TLS/SSL error", "certificate verify failed", "Certificate verification"],
        "check sslmode and sslrootcert in the address, and that the certificate names the host",
    ),
    (&["Plugin caching_sha2", "cannot be loaded"], "use a user whose authentication plugin the client tools have"),
    (
        &["ERROR 1698", "error: 1698"],
        "the server lets this user in only as the system's user of the same name: run this as that user, or name a `user` that has a password; a restore needs one, as its worker is never root",
    ),
    (&["ERROR 1045", "error: 1045"], "check user and password (`password`, or --password-file)"),
    (
        &["ERROR 2002", "error: 2002", "ERROR 2003", "error: 2003", "ERROR 2005", "error: 2005"],
        "check host, port or socket in the address, and that the server runs and listens there",
    ),
    (
        &["ERROR 2013", "error: 2013", "Error 2013", "ERROR 2006", "error: 2006", "Error 2006", "Lost connection"],
        "the server went away in the middle: see its error log; if it runs, raise net_write_timeout, net_read_timeout and wait_timeout there",
    ),
    (
        &["(1040)", "ERROR 1040", "error: 1040"],
        "the server has no connection left: raise max_connections there, or run this at another time",
    ),
    (
        &["(1203)", "ERROR 1203", "error: 1203", "(1226)", "ERROR 1226", "error: 1226"],
        "let the account have more connections at once (MAX_USER_CONNECTIONS), or restore with --jobs 1",
    ),
    (
        &["(1412)", "Table definition has changed"],
        "somebody altered a table while it was dumped: run the backup again after that",
    ),
    (
        &["(1356)", "references invalid table(s)"],
        "repair or drop the view that it names: it cannot be used, and so not be dumped",
    ),
    (
        &["transaction-precise history"],
        "exclude the database, or let the table's history go by time (ROW START and ROW END of type TIMESTAMP(6)): \
        mariadb-dump cannot write it by transactions",
    ),
    (&["(1449)", "specified as a definer"], "make the account that is missing, or give the object another definer"),
    (&["(1227)", "ERROR 1227", "Access denied; you need"], "grant the privilege that it names to the user"),
    (&["(1142)", "(1044)", "ERROR 1142", "ERROR 1044"], "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* to the user"),
    (&["ERROR 1370"], "grant EXECUTE on the routine that it names to the account that it names"),
    (
        &["ERROR 1418"],
        "set log_bin_trust_function_creators = 1 in the server while you restore: it writes a binary log",
    ),
    (
        &["ERROR 1524"],
        "load the plugin that it names into the server, such as INSTALL SONAME 'auth_ed25519': for a drill, install the \
        package that has it",
    ),
    (&["ERROR 1298"], "load the time zones into the server: mariadb-tzinfo-to-sql /usr/share/zoneinfo | mariadb mysql"),
    (&["ERROR 4025"], "mend the row or the CHECK in the source: its own dump cannot be loaded"),
    (&["ERROR 1153", "max_allowed_packet"], "raise max_allowed_packet in the server to 1G"),
];

/// `error` with a hint for its cause, if that is known.
pub(super) fn explained(error: Error) -> Error {
    causes::explained(error, &CAUSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_the_hint_that_fits_it() {
        for (said, hint) in [
            ("ERROR 1045 (28000): Access denied for user 'x'@'localhost' (using password: YES)", "password"),
            ("ERROR 1698 (28000): Access denied for user 'root'@'localhost'", "same name"),
            ("ERROR 2002 (HY000): Can't connect to local server through socket '/x' (2)", "runs and listens"),
            (
                "mariadb-dump: Error 2013: Lost connection to server during query when dumping table `t` at row: 3",
                "went away",
            ),
            ("mariadb-dump: Got error: 1045: \"Access denied\" when trying to connect", "password"),
            (
                "Couldn't execute 'SHOW FIELDS FROM `v`': View 's.v' references invalid table(s) (1356)",
                "repair or drop",
            ),
            (
                "Couldn't execute 'show events': Access denied for user 'x'@'y' to database 'shop' (1044)",
                "GRANT SELECT",
            ),
            (
                "mariadb-dump: Cannot use --dump-history for table `t` with transaction-precise history",
                "exclude the database",
            ),
            ("ERROR 1226 (42000): User 'x' has exceeded the 'max_user_connections' resource", "--jobs 1"),
            ("ERROR 4025 (23000) at line 9: CONSTRAINT `c` failed for `bad`.`t`", "mend the row or the CHECK"),
            ("ERROR 1524 (HY000) at line 2: Plugin 'ed25519' is not loaded", "INSTALL SONAME"),
        ] {
            let error = explained(Error::source_failed(said));
            let said = error.hint_text().unwrap_or_default();
            assert!(said.contains(hint), "{said}");
        }
        assert_eq!(explained(Error::source_failed("something else")).hint_text(), None);
    }
}
