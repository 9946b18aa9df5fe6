//! Names and ids: one text each, safe in an object's key; snapshot ids sort by time as text.

use std::fmt::Display;
use std::str::FromStr;

use lifeboat_format::id::{Digest, Name, SnapshotId};

/// Each line of `data` as a name, as a snapshot id and as a digest.
pub fn drive(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (mut taken, mut last) = (false, None::<SnapshotId>);
    for line in text.split('\n') {
        let name = back::<Name>(line);
        if let Some(name) = &name {
            assert!(name.as_str().len() <= 64 && !name.as_str().starts_with('.'), "`{line}` is a name");
        }
        let digest = back::<Digest>(line);
        let id = back::<SnapshotId>(line);
        if let Some(id) = &id {
            let entropy = u32::from_str_radix(&line[20..], 16).unwrap_or_default();
            assert_eq!(SnapshotId::new(id.time(), entropy), *id, "another text for the same id");
            if let Some(last) = &last {
                let by_time = last.time().cmp(&id.time());
                assert!(by_time.is_eq() || by_time == last.cmp(id), "{last} and {id} do not sort by time");
            }
        }
        taken |= name.is_some() || digest.is_some() || id.is_some();
        last = id.or(last);
    }
    taken
}

/// What the text means, if it is one; printed it is the text again.
fn back<T: FromStr + Display>(text: &str) -> Option<T> {
    let value = text.parse::<T>().ok()?;
    assert_eq!(value.to_string(), text, "printed differently");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "`{text}` is unsafe in a key");
    Some(value)
}
