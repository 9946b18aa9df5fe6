//! What of the beginning of a file only tells of the moment of its dump: when it was made, how much
//! memory the server used, how far its replication was.

use super::opcode;
use super::version::RDB_HEAD_BYTES;

/// The fields of the beginning that differ from dump to dump.
const PASSING_FIELDS: [&[u8]; 5] = [b"ctime", b"used-mem", b"repl-stream-db", b"repl-id", b"repl-offset"];

/// Takes them out of the beginning of a file.
pub(in crate::redis) fn without_passing_fields(head: &mut Vec<u8>) {
    let mut at = RDB_HEAD_BYTES;
    while head.get(at) == Some(&opcode::AUX) {
        let Some((name, value)) = string(head, at + 1) else { return };
        let Some((_, end)) = string(head, value) else { return };
        let is_passing = PASSING_FIELDS.iter().any(|field| head.get(name.clone()) == Some(*field));
        if is_passing { drop(head.drain(at..end)) } else { at = end }
    }
}

/// Where the string at this place stands, and what follows it. `None`: it is none that the
/// beginning of a file has.
fn string(head: &[u8], at: usize) -> Option<(std::ops::Range<usize>, usize)> {
    let first = usize::from(*head.get(at)?);
    let begin = at + 1;
    let (begin, length) = match (first >> 6, first & 0x3f) {
        (0, length) => (begin, length),
        (1, high) => (begin + 1, high << 8 | usize::from(*head.get(begin)?)),
        // A number of one, two or four bytes.
        (3, width @ 0..=2) => (begin, 1 << width),
        _ => return None,
    };
    let end = begin + length;
    (end <= head.len()).then_some((begin..end, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_is_taken_out_of_the_beginning() {
        let field = |name: &str, value: &[u8]| [&[opcode::AUX, name.len() as u8], name.as_bytes(), value].concat();
        let version = field("redis-ver", b"\x057.0.5");
        let dumped = |passing: &[Vec<u8>], rest: &[u8]| [b"REDIS0010", &version[..], &passing.concat(), rest].concat();
        let of = |passing: &[Vec<u8>], rest: &[u8]| {
            let mut head = dumped(passing, rest);
            without_passing_fields(&mut head);
            head
        };
        let one = [field("ctime", &[0xc2, 1, 2, 3, 4]), field("used-mem", &[0xc1, 9, 9])];
        let other = [field("ctime", &[0xc2, 9, 8, 7, 6]), field("repl-id", &[&[40], &[b'a'; 40][..]].concat())];
        let rest = [field("aof-base", &[0xc0, 0]), vec![opcode::RESIZE, 1, 0]].concat();
        assert_eq!(of(&one, &rest), dumped(&[], &rest));
        assert_eq!(of(&other, &rest), dumped(&[], &rest));
        // What is cut short, or is no field, stays.
        for rest in [&[opcode::AUX][..], &[opcode::AUX, 0x3f, b'c'], &[opcode::DATABASE, 0]] {
            assert_eq!(of(&one, rest), dumped(&[], rest));
        }
        let mut of_valkey = [b"VALKEY080", &version[..], &one.concat(), &rest].concat();
        without_passing_fields(&mut of_valkey);
        assert_eq!(of_valkey, [b"VALKEY080", &version[..], &rest].concat());
        let mut nothing = b"RED".to_vec();
        without_passing_fields(&mut nothing);
        assert_eq!(nothing, b"RED");
    }
}
