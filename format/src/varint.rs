//! Unsigned LEB128 variable-length integers, at most ten bytes, shortest form only.

/// Appends `value`.
#[inline]
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`put`] appends.
#[must_use]
pub fn length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Takes a value off the front of `input`; `None` if it is cut short, too large, or not in its
/// shortest form.
#[inline]
pub fn take(input: &mut &[u8]) -> Option<u64> {
    // Up to four bytes at once: a branch for each would be mispredicted too often.
    let Some(word) = input.first_chunk().map(|word| u32::from_le_bytes(*word)) else { return take_long(input) };
    let ends = !word & 0x8080_8080;
    if ends == 0 {
        return take_long(input);
    }
    let bits = ends.trailing_zeros() + 1;
    let word = word & u32::MAX >> (32 - bits);
    if bits > 8 && word >> (bits - 8) == 0 {
        return None;
    }
    *input = &input[bits as usize / 8..];
    let value = word & 0x7f | word >> 1 & 0x3f80 | word >> 2 & 0x1f_c000 | word >> 3 & 0xfe0_0000;
    Some(u64::from(value))
}

fn take_long(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (position, &byte) in input.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if position == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * position);
        if byte & 0x80 == 0 {
            if byte == 0 && position > 0 {
                return None;
            }
            *input = input.get(position + 1..)?;
            return Some(value);
        }
    }
    None
}

/// Takes `N` bytes off the front of `input`.
pub fn take_bytes<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gives_back_what_was_put(values in prop::collection::vec((any::<u64>(), 0..64).prop_map(|(value, shift)| value >> shift), 0..20)) {
            let mut bytes = Vec::new();
            values.iter().for_each(|value| put(&mut bytes, *value));
            prop_assert_eq!(bytes.len(), values.iter().map(|value| length(*value)).sum::<usize>());
            let mut input = bytes.as_slice();
            for value in values {
                prop_assert_eq!(take(&mut input), Some(value));
            }
            prop_assert!(input.is_empty());
        }
    }

    #[test]
    fn refuses_cut_overlong_and_padded_numbers() {
        for bad in [
            &[][..],
            &[0x80][..],
            &[0xff; 10][..],
            &[0x80, 0x00][..],
            &[0x81, 0x80, 0x00, 0x01][..],
            &[0x80, 0x80, 0x80, 0][..],
        ] {
            assert_eq!(take(&mut &bad[..]), None, "{bad:x?} passed");
        }
        let mut largest = Vec::new();
        put(&mut largest, u64::MAX);
        assert_eq!(take(&mut largest.as_slice()), Some(u64::MAX));
    }
}
