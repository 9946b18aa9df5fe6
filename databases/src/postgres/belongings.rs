//! What belongs to the roles of a server besides their attributes: settings, the end of their
//! validity and comments. Roles that exist keep these in a restore, so what the snapshot says
//! otherwise must be told. Passwords and security labels are kept, too, and not compared.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::Result;

use super::globals::{Role, Setting};
use super::server::Server;
use super::sql::{FIELD_SEPARATOR, rows};

/// Times as the text of a dump has them: in UTC, by ISO 8601, whatever the server's `DateStyle` is.
const VALIDITY: &str = "SELECT rolname, CASE WHEN isfinite(rolvaliduntil) THEN \
    rtrim(rtrim(to_char(rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), '0'), '.') || '+00' \
    ELSE rolvaliduntil::text END, shobj_description(oid, 'pg_authid') FROM pg_roles";
/// Those of all databases.
const ROLE_SETTINGS: &str = "SELECT r.rolname, unnest(s.setconfig) FROM pg_db_role_setting s \
    JOIN pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = 0";
/// Settings that are lists of names, which `pg_dumpall` writes one by one.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// What belongs to a role of a server.
#[derive(Debug, Default)]
pub(super) struct Belongings {
    settings: BTreeMap<String, String>,
    valid_until: String,
    comment: String,
}

/// What belongs to each role of a server.
///
/// # Errors
/// The server does not answer.
pub(super) async fn belongings_of_roles(server: &Server<'_>) -> Result<BTreeMap<String, Belongings>> {
    let mut roles: BTreeMap<String, Belongings> = BTreeMap::new();
    for row in rows(&server.query(VALIDITY).await?) {
        let mut fields = row.splitn(3, FIELD_SEPARATOR).map(str::to_owned);
        let role = roles.entry(fields.next().unwrap_or_default()).or_default();
        role.valid_until = fields.next().unwrap_or_default();
        role.comment = fields.next().unwrap_or_default();
    }
    for row in rows(&server.query(ROLE_SETTINGS).await?) {
        let setting = row.split_once(FIELD_SEPARATOR).and_then(|(name, rest)| Some((name, rest.split_once('=')?)));
        if let Some((name, (setting, value))) = setting {
            let role = roles.entry(name.to_owned()).or_default();
            role.settings.insert(setting.to_owned(), value.to_owned());
        }
    }
    Ok(roles)
}

impl Belongings {
    /// What a snapshot says otherwise of this role. Values may be secrets and are not told.
    pub(super) fn differing(&self, role: &Role) -> Vec<String> {
        let stored: BTreeMap<String, &Setting> =
            role.settings.iter().map(|stored| (String::from_utf8_lossy(&stored.name).into_owned(), stored)).collect();
        let names: BTreeSet<&String> = stored.keys().chain(self.settings.keys()).collect();
        let differs = |name: &&&String| match (stored.get(**name), self.settings.get(**name)) {
            (Some(stored), Some(here)) => stored.values != values(name, here),
            _ => true,
        };
        let names: Vec<&str> = names.iter().filter(differs).map(|name| name.as_str()).collect();
        let mut told = Vec::new();
        if !names.is_empty() {
            told.push(format!("settings {}", names.join(", ")));
        }
        if role.valid_until.as_deref().unwrap_or_default() != self.valid_until {
            told.push("VALID UNTIL".to_owned());
        }
        if role.comment.as_deref().unwrap_or_default() != self.comment {
            told.push("comment".to_owned());
        }
        told
    }
}

/// The value of a setting, or the parts of a list, as `pg_dumpall` writes them.
fn values(name: &str, value: &str) -> Vec<Vec<u8>> {
    if !LISTS.contains(&name) {
        return vec![value.as_bytes().to_vec()];
    }
    let (mut parts, mut part, mut quoted, mut bytes) = (Vec::new(), Vec::new(), false, value.bytes().peekable());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if quoted && bytes.peek() == Some(&b'"') => part.extend(bytes.next()),
            b'"' => quoted = !quoted,
            b',' if !quoted => parts.push(std::mem::take(&mut part)),
            b' ' if !quoted => {}
            byte => part.push(byte),
        }
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_apart_as_pg_dumpall_does() {
        let parts = |value| -> Vec<String> {
            values("search_path", value).iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect()
        };
        assert_eq!(parts("\"$user\", public,\"a, \"\"b\"\"\""), ["$user", "public", "a, \"b\""]);
        assert_eq!(parts("\"\""), [""]);
        assert_eq!(values("app.list", "\"a\", b"), [b"\"a\", b".to_vec()]);
    }
}
