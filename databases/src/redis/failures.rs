//! What the server or the client says when something fails, with the one thing to do about that
//! cause.

use lifeboat_base::Error;

use crate::tool::causes::{self, Cause};

/// What is said, and what to do about it. The first that fits counts.
const REDIS_CAUSES: [Cause; 12] = [
    (
        &["SSL_connect failed", "certificate verify failed", "Invalid CA Certificate", "Failed to set client cert"],
        "check sslrootcert, sslcert and sslkey in the url, and that the port is the one with TLS",
    ),
    (&["AUTH failed", "WRONGPASS"], "check user and password"),
    (&["NOAUTH"], "give `password`, or --password-file with a restore"),
    (
        &["NOPERM", "user executing the script can"],
        "let the user do what it names: see the rights of its account in OPERATIONS.md, under Redis",
    ),
    (
        &["Could not connect", "Connection refused", "Name or service not known"],
        "check host, port or socket, and that the server runs and listens there",
    ),
    (&["NOMASTERLINK"], "the replica has lost its master: reconnect it, or back up the master"),
    (&["LOADING"], "the server still loads its data: run this again when it has"),
    (
        &["unknown command 'SYNC'", "unknown command 'REPLCONF'"],
        "use the snapshots of its provider: this server sends no dump, as its commands for replicas are disabled",
    ),
    (
        &["Error reading bulk length"],
        "see the server's log; if it says `Can't store key`, give the user +replconf|rdb-only in place of +replconf: see \
        Redis in OPERATIONS.md",
    ),
    (&["max number of clients"], "the server has no connection left: raise maxclients there"),
    (
        &["I/O Error reading", "I/O error reading", "Server closed the connection", "Connection reset"],
        "the server closed the connection: see its log; if it tells of a replica that timed out, raise repl-timeout \
        there, as the upload was slower than the dump",
    ),
    (
        &["gave no byte for"],
        "see INFO persistence of the server: while it saves or rewrites its append-only file, it sends no dump; run this \
        after that, or raise stall in [limits]",
    ),
];

/// What a server said, in one line.
pub(super) fn in_one_line(said: &str) -> String {
    said.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// `error` with a hint for its cause, if that is known.
pub(super) fn explained(error: Error) -> Error {
    causes::explained(error, &REDIS_CAUSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_the_hint_that_fits_it() {
        for (said, hint) in [
            ("AUTH failed: WRONGPASS invalid username-password pair or user is disabled.", "password"),
            ("(error) NOAUTH Authentication required.", "give `password`"),
            ("AUTH failed: WRONGPASS no\nNOAUTH Authentication required.", "check user and password"),
            ("SYNC with master failed: -NOPERM this user has no permissions to run the 'sync' command", "rights"),
            ("Could not connect to Redis at /x: No such file or directory", "runs and listens"),
            ("Could not connect to Redis at db:6379: SSL_connect failed: wrong version number", "with TLS"),
            ("SYNC with master failed: -NOMASTERLINK Can't SYNC while not connected with my master", "its master"),
            ("SYNC with master failed: -ERR unknown command 'SYNC', with args beginning with: ", "no dump"),
            ("I/O Error reading RDB payload from socket", "repl-timeout"),
            ("Error reading bulk length while SYNCing", "+replconf|rdb-only"),
            ("redis-cli gave no byte for 600s and was stopped", "append-only"),
        ] {
            let error = explained(Error::source_failed(said));
            let told = error.hint_text().unwrap_or_default();
            assert!(told.contains(hint), "{said}: {told}");
        }
        assert_eq!(explained(Error::source_failed("something else")).hint_text(), None);
    }
}
