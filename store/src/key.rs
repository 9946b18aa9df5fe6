//! Object keys: which are legal, and where they lie below the vault's prefix.

use crate::replica::ReplicaErrorKind;

const MAX_KEY_BYTES: usize = 512;
const MAX_SEGMENT_BYTES: usize = 200;

/// Refuses a key that could escape the prefix, or that some kind of replica could not hold.
pub(super) fn check(key: &str) -> Result<(), ReplicaErrorKind> {
    if key.len() <= MAX_KEY_BYTES && key.split('/').all(is_legal_segment) {
        Ok(())
    } else {
        Err(ReplicaErrorKind::Other("this is not a legal object key".to_owned()))
    }
}

/// A segment with a leading dot is illegal: it could be `.` or `..`, or one of the hidden files
/// that file systems make.
pub(super) fn is_legal_segment(segment: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !segment.is_empty() && segment.len() <= MAX_SEGMENT_BYTES && !segment.starts_with('.') && segment.bytes().all(legal)
}

/// `key` below the vault's prefix, which may be empty.
pub(super) fn below(vault_prefix: &str, key: &str) -> String {
    if vault_prefix.is_empty() { key.to_owned() } else { format!("{vault_prefix}/{key}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn takes_every_legal_character_and_the_longest_key() {
        check("datasets/shop-1/packs/0f/A_b.c..d-e.zst.age").unwrap();
        check(&"x".repeat(MAX_SEGMENT_BYTES)).unwrap();
        check("x/".repeat(MAX_KEY_BYTES / 2).trim_end_matches('/')).unwrap();
    }

    #[test]
    fn refuses_keys_that_could_escape_or_not_be_stored() {
        let long_segment = "x".repeat(MAX_SEGMENT_BYTES + 1);
        let long_key = "x/".repeat(MAX_KEY_BYTES / 2) + "xx";
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.hidden", "a b", "ä", "a\\b", "a\0", "a%2fb"]
        {
            assert!(check(bad).is_err(), "{bad:?} passed");
        }
        assert!(check(&long_segment).is_err() && check(&long_key).is_err());
    }
}
