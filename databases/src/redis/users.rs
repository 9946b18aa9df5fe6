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

    /// Names and rules.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }

    /// Adds a user.
    pub(super) fn add(&mut self, name: &str, rules: &str) {
        self.0.insert(name.to_owned(), rules.to_owned());
    }

    /// Takes a user out.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Names and rules, with rules of single commands in the order of the commands: a server that
    /// reads them again lists them in another order. Those of one command keep theirs, and so do
    /// all others, as later rules overrule earlier ones.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&String, String)> {
        self.0.iter().map(|(name, rules)| (name, ordered(rules)))
    }

    /// An ACL file.
    pub(super) fn written(&self) -> String {
        self.0.iter().map(|(name, rules)| format!("user {name} {rules}\n")).collect()
    }
}

/// The command that a rule such as `+config|get` is about; `None` for other rules.
fn command_of(rule: &str) -> Option<&str> {
    let command = rule.strip_prefix(['+', '-']).filter(|command| !command.starts_with('@'))?;
    command.split('|').next()
}

fn ordered(rules: &str) -> String {
    let mut words = Vec::new();
    for word in rules.split(' ') {
        // The end of a selector.
        match word.strip_suffix(')').filter(|rule| command_of(rule).is_some()) {
            Some(rule) => words.extend([rule, ")"]),
            None => words.push(word),
        }
    }
    for run in words.chunk_by_mut(|a, b| command_of(a).is_some() && command_of(b).is_some()) {
        run.sort_by_key(|rule| command_of(rule));
    }
    words.join(" ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_rules_of_different_commands_may_change_places() {
        let same = |a: &str, b: &str| ordered(a) == ordered(b);
        assert!(same("on ~* -@all +@read -keys -sort_ro (~q +a +b)", "on ~* -@all +@read -sort_ro -keys (~q +b +a)"));
        for (a, b) in [
            ("-@all +get", "+get -@all"),
            ("-config +config|get", "+config|get -config"),
            ("+a +@read +b", "+b +@read +a"),
            ("+a (~q +b)", "+b (~q +a)"),
            ("~a ~b", "~b ~a"),
            ("+a", "-a"),
        ] {
            assert!(!same(a, b), "{a} | {b}");
        }
    }

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
