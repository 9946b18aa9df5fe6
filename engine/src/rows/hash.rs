//! The keyed hash of a unit. It is a pseudo-random function that is fast for about a hundred bytes.
//!
//! 1. **NH** (Black, Halevi, Krawczyk, Krovetz and Rogaway, "UMAC", 1999; on words of 64 bits as in
//!    VMAC, Krovetz, 2006). Each sixteen bytes are two words a and b. They give the product
//!    (a + k)·(b + k′), where k and k′ are two words of the key for this place alone. The bytes
//!    are taken in blocks of 32. The last 32 bytes count once more, so that no tail is left over.
//!    The length and all products are summed modulo 2¹²⁸. Over all keys, two different units have
//!    the same sum with a probability of at most 2⁻⁶³, and of at most 2⁻⁶⁴ if their lengths are
//!    equal.
//! 2. **AES-128** (FIPS 197) encrypts that sum. The first 64 bits of the result count, modulo
//!    2⁶¹ − 1. NH alone tells units apart, but its values could cancel each other in a group's sums
//!    (`parity.rs`). The output of a pseudo-random function is as good as random. Encrypting many
//!    blocks at once costs little.
//!
//! Ten million rows a GiB are hashed on the database's host, so speed matters. This takes half the
//! time of SipHash, and is no less secret.

use aes_gcm::aes::Aes128Enc;
pub(crate) use aes_gcm::aes::Block;
use aes_gcm::aes::cipher::{BlockCipherEncrypt, KeyInit};
use zeroize::Zeroizing;

use crate::rows::parity::Element;
use lifeboat_format::chunk_id::ChunkIdKey;

const HASH_CONTEXT: &str = "lifeboat v1 row hashes";
/// Bytes in a block. With 16, a processor would mispredict the number of blocks more often.
const HASHED_BYTES: usize = 32;
/// Two words of the key for each 16 bytes of a block.
type BlockKey = [[u64; 2]; HASHED_BYTES / 16];

/// Hashes with the key of one dataset.
pub(crate) struct UnitHasher {
    aes: Aes128Enc,
    /// For the last 32 bytes of a unit.
    last: BlockKey,
    /// For each block of a unit, in order.
    blocks: Zeroizing<Vec<BlockKey>>,
}

impl UnitHasher {
    /// For the dataset with this chunk-id key, and for units of at most `longest` bytes.
    pub(crate) fn new(key: &ChunkIdKey, longest: usize) -> Self {
        let mut words = Zeroizing::new(vec![[[0; 16]; HASHED_BYTES / 16]; 2 + longest / HASHED_BYTES]);
        let mut stream = blake3::Hasher::new_derive_key(HASH_CONTEXT).update(key.expose()).finalize_xof();
        stream.fill(words.as_flattened_mut().as_flattened_mut());
        let key = |block: &[[u8; 16]; HASHED_BYTES / 16]| block.each_ref().map(pair);
        Self {
            aes: Aes128Enc::new(&words[0][0].into()),
            last: key(&words[1]),
            blocks: Zeroizing::new(words[2..].iter().map(key).collect()),
        }
    }

    /// Begins the hash of one unit: the first step, NH.
    #[inline]
    pub(crate) fn begin(&self, unit: &[u8]) -> Block {
        self.nh(unit).to_le_bytes().into()
    }

    /// Finishes the hashes of many units: the second step, AES.
    pub(crate) fn finish(&self, begun: &mut [Block]) -> impl Iterator<Item = Element> {
        self.aes.encrypt_blocks(begun);
        begun.iter().map(|block| Element::from(pair(&(*block).into())[0]))
    }

    #[inline]
    fn nh(&self, unit: &[u8]) -> u128 {
        let mut sum = unit.len() as u128;
        for (block, key) in unit.as_chunks().0.iter().zip(&**self.blocks) {
            sum = sum.wrapping_add(products(block, key));
        }
        let last = unit.last_chunk().copied().unwrap_or_else(|| {
            let mut short = [0; HASHED_BYTES];
            short[..unit.len()].copy_from_slice(unit);
            short
        });
        sum.wrapping_add(products(&last, &self.last))
    }
}

#[inline]
fn products(block: &[u8; HASHED_BYTES], key: &BlockKey) -> u128 {
    let products = block.as_chunks().0.iter().zip(key).map(|(words, [k, l])| {
        let [a, b] = pair(words);
        u128::from(a.wrapping_add(*k)) * u128::from(b.wrapping_add(*l))
    });
    products.fold(0, u128::wrapping_add)
}

/// Two little-endian words, the first one first.
#[inline]
fn pair(block: &[u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(*block);
    [both as u64, (both >> 64) as u64]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn hasher(key: u8) -> UnitHasher {
        UnitHasher::new(&ChunkIdKey::new(&[key; 32]).unwrap(), 200)
    }

    #[test]
    fn every_byte_and_the_length_count() {
        let hasher = hasher(1);
        let hash = |unit: &[u8]| hasher.finish(&mut [hasher.begin(unit)]).next().unwrap();
        let mut seen = HashSet::new();
        for length in 0..=200 {
            let unit = vec![b'a'; length];
            assert!(seen.insert(hash(&unit)), "{length}");
            for at in 0..length {
                for bit in [0, 7] {
                    let mut other = unit.clone();
                    other[at] ^= 1 << bit;
                    assert!(seen.insert(hash(&other)), "bit {bit} of byte {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn another_key_hashes_differently() {
        let hash = |hasher: UnitHasher| {
            let mut begun: Vec<_> = (0..=200).map(|length| hasher.begin(&vec![0; length])).collect();
            hasher.finish(&mut begun).collect::<Vec<_>>()
        };
        assert!(hash(hasher(1)).iter().zip(hash(hasher(2))).all(|(ours, theirs)| *ours != theirs));
    }

    #[test]
    fn nh_is_that_of_the_paper() {
        let (hasher, unit): (_, Vec<u8>) = (hasher(1), (0..50).collect());
        let word = |at: usize| u64::from_le_bytes(unit[at..at + 8].try_into().unwrap());
        let [first, last] = [hasher.blocks[0], hasher.last];
        let expected = [(0, first[0]), (16, first[1]), (18, last[0]), (34, last[1])]
            .into_iter()
            .map(|(at, [k, l])| u128::from(word(at).wrapping_add(k)) * u128::from(word(at + 8).wrapping_add(l)))
            .fold(50, u128::wrapping_add);
        assert_eq!(hasher.nh(&unit), expected);
    }
}
