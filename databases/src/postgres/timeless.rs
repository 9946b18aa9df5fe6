//! Takes the time out of an archive at which `pg_dump` made it, so that two dumps of the same data
//! are the same bytes. `pg_restore` prints that time, and does nothing else with it; when a
//! snapshot was taken, its manifest says.

use super::contents::{HEAD_BYTES, INT_BYTES, MINOR_VERSIONS};

/// 1 January 2000: second, minute, hour, day, month from 0, year from 1900, daylight saving.
const NO_TIME: [u8; 7] = [0, 0, 0, 1, 0, 100, 0];

/// Sets the time in the head of an archive that begins with `piece`. One of an unknown version, or
/// of which less is there, stays as it is.
pub(super) fn forget_time(piece: &mut [u8]) {
    let Some(minor) = piece.get(6).copied().filter(|minor| MINOR_VERSIONS.contains(minor)) else { return };
    let compression = if minor >= 15 { 1 } else { INT_BYTES };
    let begin = HEAD_BYTES + compression;
    let Some(time) = piece.get_mut(begin..begin + NO_TIME.len() * INT_BYTES) else { return };
    for (field, value) in time.chunks_exact_mut(INT_BYTES).zip(NO_TIME) {
        field.copy_from_slice(&[0, value, 0, 0, 0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_is_changed() {
        for (minor, compression) in [(14_u8, &[0_u8; 5][..]), (16, &[0][..])] {
            let head = [&b"PGDMP\x01"[..], &[minor, 0, 4, 8, 1], compression].concat();
            let time = |values: [u8; 7]| values.map(|value| [0, value, 0, 0, 0]).concat();
            let dumped = |values: [u8; 7]| [&head[..], &time(values), b"\0\x04\0\0\0shop"].concat();
            let mut one = dumped([59, 30, 14, 30, 10, 126, 1]);
            forget_time(&mut one);
            assert_eq!(one, dumped(NO_TIME));
            let mut short = one[..head.len() + 20].to_vec();
            short[head.len() + 1] = 7;
            let before = short.clone();
            forget_time(&mut short);
            assert_eq!(short, before);
        }
        let mut unknown = *b"PGDMP\x01\x63\0\x04\x08\x01\0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        let before = unknown;
        forget_time(&mut unknown);
        assert_eq!(unknown, before);
    }
}
