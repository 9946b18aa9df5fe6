//! Users as a server lists them and as an ACL file holds them: one a line, passwords as hashes.

use std::collections::BTreeMap;

use lifeboat_base::{Error, Result};

use crate::streams::StoredStreams;

/// Users of a snapshot are not longer.
pub(super) const MAX_REDIS_USERS_BYTES: usize = 16 << 20;

/// Rules by the names of users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RedisUsers(BTreeMap<String, String>);

impl RedisUsers {
    /// Reads lines such as `user default on nopass ~* &* +@all`.
    ///
    /// # Errors
    /// A line is none of a user, or two are of one user.
    pub(super) fn of_lines<L: AsRef<str>>(lines: &[L]) -> Result<Self> {
        let odd = || {
            Error::integrity("the users of the Redis server are not understood")
                .hint("use the version of Lifeboat that wrote the snapshot, or a newer one")
        };
        let mut users = BTreeMap::new();
        for line in lines.iter().map(AsRef::as_ref) {
            let user = line.strip_prefix("user ").and_then(|user| user.split_once(' '));
            let user = user.filter(|(name, _)| !name.is_empty() && !line.chars().any(char::is_control));
            let (name, rules) = user.ok_or_else(odd)?;
            if users.insert(name.to_owned(), rules.to_owned()).is_some() {
                return Err(odd());
            }
        }
        Ok(Self(users))
    }

    /// The users of a snapshot.
    ///
    /// # Errors
    /// They cannot be read, or are not as a capture writes them.
    pub(super) async fn of_stream(streams: &dyn StoredStreams, name: &str) -> Result<Self> {
        let (mut stream, mut text) = (streams.open(name).await?, Vec::new());
        while let Some(piece) = stream.next().await? {
            text.extend_from_slice(&piece);
            if text.len() > MAX_REDIS_USERS_BYTES {
                return Err(Error::integrity("the snapshot's users take more than 16 MiB"));
            }
        }
        let text = String::from_utf8(text).map_err(|_| Error::integrity("the snapshot's users are not UTF-8"))?;
        Self::of_lines(&text.split_terminator('\n').collect::<Vec<_>>())
    }

    /// Adds a user.
    pub(super) fn add(&mut self, name: &str, rules: &str) {
        self.0.insert(name.to_owned(), rules.to_owned());
    }

    /// Takes a user out.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Names and rules.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }

    /// An ACL file.
    pub(super) fn written(&self) -> String {
        self.0.iter().map(|(name, rules)| format!("user {name} {rules}\n")).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_and_written() {
        let lines = ["user app on #ab12 ~app:* +get", "user default on nopass sanitize-payload ~* &* +@all"];
        let users = RedisUsers::of_lines(&lines).unwrap();
        assert_eq!(users.written(), lines.map(|line| format!("{line}\n")).concat());
        for odd in ["", "user x", "save 1 1", "user  on", "user a on\nsave 1 1", "user a\u{0} on"] {
            assert!(RedisUsers::of_lines(&[odd]).is_err(), "{odd:?}");
        }
        assert!(RedisUsers::of_lines(&["user a on", "user a off"]).is_err());
    }
}
