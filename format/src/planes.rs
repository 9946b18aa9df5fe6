//! Numbers in planes, which are LEB128 turned by a right angle. The first plane holds the lowest
//! seven bits of each number, with the eighth bit set if the number has more; the second holds the
//! next seven bits of each number that has more; and so on. Numbers of one kind compress better
//! this way, and are read without a branch for each.

/// No number has more planes, so none exceeds 63 bits.
const MAX_PLANES: usize = 9;

/// The planes of `numbers`, which are below 2⁶³: the lowest plane first, and at least one.
#[must_use]
pub fn planes(numbers: &[u64]) -> Vec<Vec<u8>> {
    let (mut planes, mut rest) = (Vec::new(), numbers.to_vec());
    while planes.is_empty() || !rest.is_empty() {
        planes.push(rest.iter().map(|number| *number as u8 & 0x7f | u8::from(*number > 0x7f) << 7).collect());
        // Keeps those that have more. Each is written to the next place, which is taken only if it
        // has more: a branch here would be mispredicted too often.
        let mut found = 0;
        for at in 0..rest.len() {
            let number = rest[at];
            rest[found] = number >> 7;
            found += usize::from(number > 0x7f);
        }
        rest.truncate(found);
    }
    planes
}

/// Takes `count` numbers off the front of `input`; `None` if they are cut short, too large, or not
/// in their shortest form.
pub fn take(input: &mut &[u8], count: usize) -> Option<Vec<u64>> {
    let plane = input.split_off(..count)?;
    let mut numbers: Vec<u64> = plane.iter().map(|byte| u64::from(byte & 0x7f)).collect();
    // The places of those that have more, again without a branch.
    let mut places = vec![0_u32; count];
    let mut found = 0;
    for (place, byte) in (0..).zip(plane) {
        places[found] = place;
        found += usize::from(byte >> 7);
    }
    places.truncate(found);
    for number in 1.. {
        if places.is_empty() {
            break;
        }
        let plane = input.split_off(..places.len()).filter(|_| number < MAX_PLANES)?;
        let (mut found, mut shortest) = (0, true);
        for (at, byte) in plane.iter().enumerate() {
            let place = places[at];
            numbers[place as usize] |= u64::from(byte & 0x7f) << (7 * number);
            places[found] = place;
            found += usize::from(byte >> 7);
            shortest &= *byte != 0;
        }
        if !shortest {
            return None;
        }
        places.truncate(found);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn come_back_as_they_were(bits in prop::collection::vec((any::<u64>(), 1_u32..64), 0..500), rest in any::<[u8; 3]>()) {
            let numbers: Vec<u64> = bits.iter().map(|(number, bits)| number >> (64 - bits)).collect();
            let mut bytes = planes(&numbers).concat();
            let whole = bytes.len();
            bytes.extend(rest);
            let mut input = bytes.as_slice();
            let taken = take(&mut input, numbers.len());
            prop_assert_eq!(taken.as_ref(), Some(&numbers));
            prop_assert_eq!(input, &rest);
            prop_assert!(whole == 0 || take(&mut &bytes[..whole - 1], numbers.len()).is_none());
        }

        #[test]
        fn whatever_else_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0_usize..100) {
            let numbers = take(&mut bytes.as_slice(), count);
            prop_assert!(numbers.is_none_or(|numbers| numbers.len() == count && numbers.iter().all(|number| *number < 1 << 63)));
        }
    }

    #[test]
    fn lie_as_format_md_says() {
        assert_eq!(planes(&[1, 300, 127, 70_000]), [vec![1, 0xac, 0x7f, 0xf0], vec![2, 0xa2], vec![4]]);
        assert_eq!(planes(&[]), [Vec::<u8>::new()]);
        assert_eq!(take(&mut &[0x81, 0x00][..], 1), None, "not the shortest form of 1");
    }
}
