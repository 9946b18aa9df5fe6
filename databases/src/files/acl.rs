//! Access control lists: as the kernel writes them, and as tar archives hold them.
//!
//! The kernel's form is a version and entries of tag, permissions and id, little endian. Archives
//! hold text such as `user::rwx,user:1000:r-x,…`, with ids as numbers, as no name of one machine
//! need mean the same on another.

const ACL_VERSION: u32 = 2;
const ACL_ENTRY_BYTES: usize = 8;
/// The id of an entry that has none.
const NO_ID: u32 = u32::MAX;

const GROUP_TAG: u16 = 0x04;
const MASK_TAG: u16 = 0x10;

/// Tags of the kernel, with the words for them, and whether they have an id.
const TAGS: [(u16, &str, bool); 6] = [
    (0x01, "user", false),
    (0x02, "user", true),
    (GROUP_TAG, "group", false),
    (0x08, "group", true),
    (MASK_TAG, "mask", false),
    (0x20, "other", false),
];

/// A list of the kernel as text; `None` if it is none.
pub(super) fn to_text(list: &[u8]) -> Option<String> {
    let (version, entries) = list.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<ACL_ENTRY_BYTES>();
    if u32::from_le_bytes(*version) != ACL_VERSION || !rest.is_empty() || entries.is_empty() {
        return None;
    }
    let mut texts = Vec::with_capacity(entries.len());
    for &[t0, t1, p0, p1, i0, i1, i2, i3] in entries {
        let (tag, bits) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
        let (_, word, has_id) = TAGS.into_iter().find(|(number, ..)| *number == tag)?;
        let id = match (has_id, u32::from_le_bytes([i0, i1, i2, i3])) {
            (false, _) => String::new(),
            (true, NO_ID) => return None,
            (true, id) => id.to_string(),
        };
        if bits > 7 {
            return None;
        }
        let may = |bit, letter| if bits & bit == 0 { '-' } else { letter };
        texts.push(format!("{word}:{id}:{}{}{}", may(4, 'r'), may(2, 'w'), may(1, 'x')));
    }
    Some(texts.join(","))
}

/// What [`to_text`] wrote, as the kernel takes it; `None` for any other text.
pub(super) fn of_text(text: &str) -> Option<Vec<u8>> {
    let mut list = ACL_VERSION.to_le_bytes().to_vec();
    for entry in text.split(',') {
        let mut parts = entry.split(':');
        let (Some(word), Some(id), Some(may), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return None;
        };
        let (tag, ..) = TAGS.into_iter().find(|(_, known, has_id)| *known == word && *has_id != id.is_empty())?;
        let id: u32 = if id.is_empty() { NO_ID } else { id.parse().ok()? };
        let mut bits = 0u16;
        for (letter, (bit, expected)) in may.bytes().zip([(4, b'r'), (2, b'w'), (1, b'x')]) {
            match letter {
                letter if letter == expected => bits |= bit,
                b'-' => {}
                _ => return None,
            }
        }
        if may.len() != 3 {
            return None;
        }
        list.extend(tag.to_le_bytes().into_iter().chain(bits.to_le_bytes()).chain(id.to_le_bytes()));
    }
    (to_text(&list).as_deref() == Some(text)).then_some(list)
}

/// A mode without this list. With one, the bits of the group are the mask; alone, they would give
/// the group what the list keeps from it.
pub(super) fn mode_without(list: &[u8], mode: u32) -> u32 {
    let entries = list.get(4..).unwrap_or_default().as_chunks::<ACL_ENTRY_BYTES>().0;
    let bits = |wanted: u16| {
        let found = entries.iter().find(|entry| u16::from_le_bytes([entry[0], entry[1]]) == wanted);
        found.map(|entry| u32::from(entry[2]) & 7)
    };
    let group = bits(GROUP_TAG).unwrap_or_default() & bits(MASK_TAG).unwrap_or(7);
    mode & !0o070 | group << 3
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_nothing_else() {
        let text = "user::rwx,user:1000:r-x,group::r--,group:4000000000:--x,mask::rwx,other::---";
        let list = of_text(text).unwrap();
        assert_eq!(list.len(), 4 + 6 * ACL_ENTRY_BYTES);
        assert_eq!(to_text(&list).unwrap(), text);
        for bad in ["", "user:rwx", "user::rwxr", "user::rw", "user::wrx", "mask:1:r--", "x::r--", "user:01:r--"] {
            assert_eq!(of_text(bad), None, "{bad}");
        }
        for cut in 0..list.len() {
            assert!(to_text(&list[..cut]).is_none_or(|part| text.starts_with(&part)), "{cut}");
        }
    }

    #[test]
    fn a_group_gets_no_more_without_the_list_than_with_it() {
        let list = of_text("user::rw-,user:1000:rwx,group::r--,mask::rwx,other::---").unwrap();
        assert_eq!(mode_without(&list, 0o670), 0o640);
        let masked = of_text("user::rw-,user:1000:rwx,group::rwx,mask::r--,other::---").unwrap();
        assert_eq!(mode_without(&masked, 0o4640), 0o4640);
    }
}
