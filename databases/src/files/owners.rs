//! The names of users and groups of this machine, and whether owners can be told apart at all.
//!
//! Names are those of `/etc/passwd` and `/etc/group`. Who is known from elsewhere, such as a
//! directory service, is captured by number alone.

use std::collections::HashMap;
use std::path::Path;

use super::entry::FileOwner;

/// Whom the kernel shows where it knows no number: `/proc/sys/kernel/overflowuid`.
const NOBODY_KNOWN: u32 = 65_534;

/// Names by number.
#[derive(Debug, Default)]
pub(super) struct OwnerNames {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl OwnerNames {
    /// Those of this machine; none where the files cannot be read.
    pub(super) fn here() -> Self {
        let read = |path: &str| by_number(&std::fs::read_to_string(Path::new(path)).unwrap_or_default());
        Self { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    pub(super) fn of(&self, uid: u32, gid: u32) -> FileOwner {
        let name = |names: &HashMap<u32, String>, id| names.get(&id).cloned().unwrap_or_default();
        FileOwner { uid, gid, user: name(&self.users, uid), group: name(&self.groups, gid) }
    }

    /// The numbers here: of the same name if this machine has it, else those of the snapshot.
    pub(super) fn numbers(&self, owner: &FileOwner) -> (u32, u32) {
        let number = |names: &HashMap<u32, String>, name: &str, id: u32| {
            let same = names.get(&id).is_some_and(|known| known == name);
            let named = names.iter().filter(|(_, known)| !name.is_empty() && !same && *known == name);
            named.map(|(id, _)| *id).min().unwrap_or(id)
        };
        (number(&self.users, &owner.user, owner.uid), number(&self.groups, &owner.group, owner.gid))
    }
}

/// `name:x:number:…` in lines. The first name of a number counts.
fn by_number(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok()))
            && !name.is_empty()
            // It would end there for others.
            && !name.contains('\0')
        {
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// Whether this process sees the owners of files as they are. In a namespace of users that knows
/// but some of them, as systemd's `PrivateUsers=` makes it, all others look like one.
pub(super) fn are_told_apart() -> bool {
    ["/proc/self/uid_map", "/proc/self/gid_map"].iter().all(|path| {
        // Without the file there are no such namespaces.
        std::fs::read_to_string(path).map_or(true, |map| knows(&map, NOBODY_KNOWN))
    })
}

/// Whether a map of the kernel, `first-here first-there count` in lines, knows this number.
fn knows(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_knows_but_some_users_is_noticed() {
        assert!(knows("         0          0 4294967295\n", NOBODY_KNOWN));
        assert!(knows("0 100000 65536", NOBODY_KNOWN));
        assert!(!knows("0 0 1\n998 998 1\n", NOBODY_KNOWN));
        assert!(!knows("", NOBODY_KNOWN));
    }

    #[test]
    fn an_owner_is_found_by_name_and_else_by_number() {
        let users =
            by_number("root:x:0:0::/:/bin/sh\nann:x:1001:1001::/:\nann2:x:1001:1::/:\nbroken\n:x:7:\na\0b:x:8:\n");
        let names = OwnerNames { users, groups: by_number("root:x:0:\nstaff:x:50:ann\n") };
        let owner = |uid, user: &str| FileOwner { uid, gid: 50, user: user.to_owned(), group: "staff".to_owned() };
        assert_eq!(names.of(1001, 50), owner(1001, "ann"));
        assert_eq!(names.of(7, 50), owner(7, ""));
        assert_eq!(names.of(8, 50), owner(8, ""));
        assert_eq!(names.numbers(&owner(4000, "ann")), (1001, 50));
        assert_eq!(names.numbers(&owner(4000, "bob")), (4000, 50));
        assert_eq!(names.numbers(&owner(4000, "")), (4000, 50));
    }
}
