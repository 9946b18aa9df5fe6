//! Padding, so that the size of an object tells little of what is in it. See "Padding" in
//! `FORMAT.md`.

use crate::frames::{SKIPPABLE_HEADER_BYTES, SKIPPABLE_MAGIC};

/// Up to this length, a plaintext is padded to a multiple of [`STEP_BYTES`], and above by Padmé.
const MAX_STEPPED_BYTES: usize = 2 << 20;
const STEP_BYTES: usize = 64 << 10;

/// How long a plaintext becomes that has `length` bytes with the fewest zeros. At most 2⁴⁸ is
/// meant, and no more can be padded.
#[must_use]
pub fn padded(length: usize) -> usize {
    if length <= MAX_STEPPED_BYTES {
        return length.next_multiple_of(STEP_BYTES);
    }
    let exponent = length.ilog2();
    length.next_multiple_of(1 << (exponent - (exponent.ilog2() + 1)))
}

/// The length of a plaintext of which `length` bytes are written, once it is padded. Its padding
/// ends with `tail` bytes that are not zeros.
#[must_use]
pub fn padded_with_tail(length: usize, tail: usize) -> usize {
    padded(length + SKIPPABLE_HEADER_BYTES + tail)
}

/// Appends a skippable frame with zeros and `tail` to `out`, which ends a plaintext. Bytes of the
/// plaintext that are not in `out` number `before`.
pub fn append(out: &mut Vec<u8>, before: usize, tail: &[u8]) {
    let written = before + out.len();
    let payload = padded_with_tail(written, tail.len()) - written - SKIPPABLE_HEADER_BYTES;
    out.extend_from_slice(&SKIPPABLE_MAGIC);
    out.extend_from_slice(&(payload as u32).to_le_bytes());
    out.resize(out.len() + payload - tail.len(), 0);
    out.extend_from_slice(tail);
}

/// Whether `padding` is what [`append`] writes after `before` bytes, with a tail of `tail` bytes.
#[must_use]
pub fn is_right(padding: &[u8], before: usize, tail: usize) -> bool {
    let due = padded_with_tail(before, tail) - before;
    let Some((header, payload)) = padding.split_first_chunk::<SKIPPABLE_HEADER_BYTES>() else { return false };
    let length = (payload.len() as u32).to_le_bytes();
    padding.len() == due
        && header[..4] == SKIPPABLE_MAGIC
        && header[4..] == length
        && payload[..payload.len() - tail].iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_those_of_format_md() {
        const MIB: usize = 1 << 20;
        for (length, expected) in [
            (1, 64 << 10),
            (64 << 10, 64 << 10),
            ((64 << 10) + 1, 128 << 10),
            (2 * MIB, 2 * MIB),
            (2 * MIB + 1, 2 * MIB + (64 << 10)),
            (4 * MIB + 1, 4 * MIB + (128 << 10)),
            (16 * MIB, 16 * MIB),
            (16 * MIB + 1, 16 * MIB + (512 << 10)),
        ] {
            assert_eq!(padded(length), expected, "{length}");
        }
    }

    proptest! {
        #[test]
        fn adds_little_and_what_is_padded_stays(length in 0_usize..1 << 40) {
            let long = padded(length);
            prop_assert_eq!(padded(long), long);
            prop_assert!(long >= length && (long - length < STEP_BYTES || (long - length) * 31 <= length));
        }

        #[test]
        fn only_the_right_padding_is_right(before in 0_usize..300_000, at in any::<prop::sample::Index>(), tail in 0_usize..17) {
            let mut padding = vec![];
            append(&mut padding, before, &vec![7; tail]);
            prop_assert!(is_right(&padding, before, tail));
            prop_assert!(!is_right(&padding[1..], before, tail));
            prop_assert!(!is_right(&[&padding[..], &[0]].concat(), before, tail));
            let at = at.index(padding.len() - tail);
            padding[at] ^= 1;
            prop_assert!(!is_right(&padding, before, tail));
        }
    }
}
