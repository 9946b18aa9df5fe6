//! The compact forms of small values: listpacks, ziplists, sets of integers and zipmaps. Each is
//! one string, which is read strictly to its last byte.

use lifeboat_base::Result;

use super::input::damaged;
use super::strings::Decimal;

/// An entry of a packed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PackedEntry<'a> {
    Text(&'a [u8]),
    Number(i64),
}

impl PackedEntry<'_> {
    /// Puts its length and its bytes into a hash.
    pub(super) fn hash(self, hasher: &mut blake3::Hasher) {
        match self {
            Self::Text(text) => hash_text(text, hasher),
            Self::Number(number) => hash_text(Decimal::of(number).bytes(), hasher),
        }
    }

    /// The number that it is.
    pub(super) fn number(self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        }
    }

    /// The score that it is.
    pub(super) fn score(self) -> Option<f64> {
        match self {
            // Exactly as the server, which reads the text of the number.
            Self::Number(number) => Some(number as f64),
            Self::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        }
    }
}

/// Puts the length of a text and its bytes into a hash.
pub(super) fn hash_text(text: &[u8], hasher: &mut blake3::Hasher) {
    hasher.update(&(text.len() as u64).to_le_bytes()).update(text);
}

/// Gives the entries of a packed value, one after the other.
pub(super) trait PackedEntries<'a> {
    /// The next entry; `None` at the checked end.
    fn next(&mut self) -> Result<Option<PackedEntry<'a>>>;

    /// The next entry, which must be there.
    fn expect(&mut self) -> Result<PackedEntry<'a>> {
        self.next()?.ok_or_else(|| damaged("a packed value has too few entries"))
    }
}

/// The rest of a packed value.
#[derive(Debug, Clone, Copy)]
struct PackedRest<'a>(&'a [u8]);

impl<'a> PackedRest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or_else(|| damaged("a packed value ends in the middle"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    /// A number of 24 bits.
    fn i24(&mut self) -> Result<i64> {
        let [a, b, c] = self.array()?;
        Ok(i64::from(i32::from_le_bytes([0, a, b, c]) >> 8))
    }
}

/// Each form ends with this byte.
const PACKED_END: u8 = 0xff;
/// A header that tells this count does not know it.
const UNKNOWN_COUNT: u16 = u16::MAX;

/// What listpacks and ziplists have in common.
#[derive(Debug, Clone)]
struct Counted<'a> {
    rest: PackedRest<'a>,
    told: u16,
    found: u64,
}

impl Counted<'_> {
    fn end(&self) -> Result<()> {
        if !self.rest.0.is_empty() {
            return Err(damaged("a packed value goes on behind its end"));
        }
        match self.told == UNKNOWN_COUNT || u64::from(self.told) == self.found {
            true => Ok(()),
            false => Err(damaged("a packed value has not as many entries as it says")),
        }
    }
}

/// A listpack.
#[derive(Debug, Clone)]
pub(super) struct Listpack<'a>(Counted<'a>);

impl<'a> Listpack<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self> {
        let mut rest = PackedRest(bytes);
        if rest.u32()? != bytes.len() {
            return Err(damaged("a listpack has not the length that it says"));
        }
        let told = u16::from_le_bytes(rest.array()?);
        Ok(Self(Counted { rest, told, found: 0 }))
    }
}

impl<'a> PackedEntries<'a> for Listpack<'a> {
    fn next(&mut self) -> Result<Option<PackedEntry<'a>>> {
        let rest = &mut self.0.rest;
        let before = rest.0.len();
        let first = rest.byte()?;
        let entry = match first {
            PACKED_END => return self.0.end().map(|()| None),
            0x00..=0x7f => PackedEntry::Number(i64::from(first)),
            0x80..=0xbf => PackedEntry::Text(rest.take(usize::from(first & 0x3f))?),
            0xc0..=0xdf => {
                let value = i64::from(first & 0x1f) << 8 | i64::from(rest.byte()?);
                PackedEntry::Number(if value >= 1 << 12 { value - (1 << 13) } else { value })
            }
            0xe0..=0xef => {
                let length = usize::from(first & 0x0f) << 8 | usize::from(rest.byte()?);
                PackedEntry::Text(rest.take(length)?)
            }
            0xf0 => {
                let length = rest.u32()?;
                PackedEntry::Text(rest.take(length)?)
            }
            0xf1 => PackedEntry::Number(i64::from(i16::from_le_bytes(rest.array()?))),
            0xf2 => PackedEntry::Number(rest.i24()?),
            0xf3 => PackedEntry::Number(i64::from(i32::from_le_bytes(rest.array()?))),
            0xf4 => PackedEntry::Number(i64::from_le_bytes(rest.array()?)),
            _ => return Err(damaged("an entry of a listpack has an unknown form")),
        };
        // Its length comes again behind it, for whoever reads backwards: seven bits a byte.
        let length = before - rest.0.len();
        let groups = match length {
            0..=127 => 1,
            128..=16_382 => 2,
            16_383..=2_097_150 => 3,
            2_097_151..=268_435_454 => 4,
            _ => 5,
        };
        let mut told = 0;
        for (number, byte) in rest.take(groups)?.iter().enumerate() {
            if (byte & 0x80 != 0) != (number > 0) {
                return Err(damaged("an entry of a listpack does not end where it says"));
            }
            told = told << 7 | usize::from(byte & 0x7f);
        }
        if told != length {
            return Err(damaged("an entry of a listpack has not the length that it says"));
        }
        self.0.found += 1;
        Ok(Some(entry))
    }
}

/// A ziplist: the form before listpacks.
#[derive(Debug)]
pub(super) struct Ziplist<'a> {
    entries: Counted<'a>,
    /// The length of the entry before.
    last: usize,
}

impl<'a> Ziplist<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self> {
        let mut rest = PackedRest(bytes);
        if rest.u32()? != bytes.len() {
            return Err(damaged("a ziplist has not the length that it says"));
        }
        // Where the last entry begins.
        rest.u32()?;
        let told = u16::from_le_bytes(rest.array()?);
        Ok(Self { entries: Counted { rest, told, found: 0 }, last: 0 })
    }
}

impl<'a> PackedEntries<'a> for Ziplist<'a> {
    fn next(&mut self) -> Result<Option<PackedEntry<'a>>> {
        let rest = &mut self.entries.rest;
        let before = rest.0.len();
        let last = match rest.byte()? {
            PACKED_END => return self.entries.end().map(|()| None),
            0xfe => rest.u32()?,
            short => usize::from(short),
        };
        if last != self.last {
            return Err(damaged("an entry of a ziplist does not know the one before it"));
        }
        let first = rest.byte()?;
        let entry = match (first >> 6, first) {
            (0, _) => PackedEntry::Text(rest.take(usize::from(first))?),
            (1, _) => {
                let length = usize::from(first & 0x3f) << 8 | usize::from(rest.byte()?);
                PackedEntry::Text(rest.take(length)?)
            }
            (_, 0x80) => {
                let length = u32::from_be_bytes(rest.array()?) as usize;
                PackedEntry::Text(rest.take(length)?)
            }
            (_, 0xc0) => PackedEntry::Number(i64::from(i16::from_le_bytes(rest.array()?))),
            (_, 0xd0) => PackedEntry::Number(i64::from(i32::from_le_bytes(rest.array()?))),
            (_, 0xe0) => PackedEntry::Number(i64::from_le_bytes(rest.array()?)),
            (_, 0xf0) => PackedEntry::Number(rest.i24()?),
            (_, 0xfe) => PackedEntry::Number(i64::from(i8::from_le_bytes(rest.array()?))),
            (_, 0xf1..=0xfd) => PackedEntry::Number(i64::from(first & 0x0f) - 1),
            _ => return Err(damaged("an entry of a ziplist has an unknown form")),
        };
        self.last = before - rest.0.len();
        self.entries.found += 1;
        Ok(Some(entry))
    }
}

/// A set of integers, in ascending order.
#[derive(Debug)]
pub(super) struct Intset<'a> {
    rest: PackedRest<'a>,
    width: usize,
    last: Option<i64>,
}

impl<'a> Intset<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self> {
        let mut rest = PackedRest(bytes);
        let (width, count) = (rest.u32()?, rest.u32()?);
        match matches!(width, 2 | 4 | 8) && count.checked_mul(width) == Some(rest.0.len()) {
            true => Ok(Self { rest, width, last: None }),
            false => Err(damaged("a set of integers has not the length that it says")),
        }
    }
}

impl<'a> PackedEntries<'a> for Intset<'a> {
    fn next(&mut self) -> Result<Option<PackedEntry<'a>>> {
        if self.rest.0.is_empty() {
            return Ok(None);
        }
        let number = match self.width {
            2 => i64::from(i16::from_le_bytes(self.rest.array()?)),
            4 => i64::from(i32::from_le_bytes(self.rest.array()?)),
            _ => i64::from_le_bytes(self.rest.array()?),
        };
        if self.last.replace(number).is_some_and(|last| last >= number) {
            return Err(damaged("a set of integers is not in order"));
        }
        Ok(Some(PackedEntry::Number(number)))
    }
}

/// A zipmap: the form of small hashes before Redis 2.6.
#[derive(Debug)]
pub(super) struct Zipmap<'a> {
    rest: PackedRest<'a>,
    in_pair: bool,
}

impl<'a> Zipmap<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self> {
        let mut rest = PackedRest(bytes);
        rest.byte()?;
        Ok(Self { rest, in_pair: false })
    }
}

impl<'a> PackedEntries<'a> for Zipmap<'a> {
    fn next(&mut self) -> Result<Option<PackedEntry<'a>>> {
        let length = match self.rest.byte()? {
            PACKED_END if !self.in_pair && self.rest.0.is_empty() => return Ok(None),
            PACKED_END => return Err(damaged("a zipmap does not end as one")),
            0xfe => self.rest.u32()?,
            short => usize::from(short),
        };
        // A value may have room behind it.
        let free = if self.in_pair { usize::from(self.rest.byte()?) } else { 0 };
        let text = self.rest.take(length)?;
        self.rest.take(free)?;
        self.in_pair = !self.in_pair;
        Ok(Some(PackedEntry::Text(text)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn all<'a>(mut entries: impl PackedEntries<'a>) -> Result<Vec<PackedEntry<'a>>> {
        let mut found = Vec::new();
        while let Some(entry) = entries.next()? {
            found.push(entry);
        }
        Ok(found)
    }

    #[test]
    fn a_zipmap_is_read_to_its_end() {
        let bytes = b"\x02\x03foo\x03\x00bar\x05hello\x05\x02worldxx\xff";
        let found = all(Zipmap::new(bytes).unwrap()).unwrap();
        let texts = [&b"foo"[..], b"bar", b"hello", b"world"].map(PackedEntry::Text);
        assert_eq!(found, texts);
        for cut in 1..bytes.len() {
            assert!(all(Zipmap::new(&bytes[..cut]).unwrap()).is_err(), "{cut}");
        }
        assert!(all(Zipmap::new(b"\x01\x03foo\xff").unwrap()).is_err());
        assert!(all(Zipmap::new(b"\x01\x03foo\x00\x00\xff!").unwrap()).is_err());
    }

    #[test]
    fn a_ziplist_is_read_to_its_end() {
        let bytes = b"\x1b\0\0\0\x16\0\0\0\x06\0\x00\xf1\x02\xfe\x80\x03\x02hi\x04\xf0\xff\xff\xff\x05\xfd\xff";
        let mut bytes = bytes.to_vec();
        let length = bytes.len();
        bytes[0] = u8::try_from(length).unwrap();
        bytes[8] = 5;
        let found = all(Ziplist::new(&bytes).unwrap()).unwrap();
        let expected = [
            PackedEntry::Number(0),
            PackedEntry::Number(-128),
            PackedEntry::Text(b"hi"),
            PackedEntry::Number(-1),
            PackedEntry::Number(12),
        ];
        assert_eq!(found, expected);
        for at in [0, 8, 10, 12, 15, 16, length - 1] {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x04;
            assert!(Ziplist::new(&wrong).and_then(all).is_err(), "{at}");
        }
    }

    #[test]
    fn sets_of_integers_are_in_order() {
        let set = |width: u8, count: u8, rest: &[u8]| [&[width, 0, 0, 0, count, 0, 0, 0], rest].concat();
        let good = set(2, 2, &[0xff, 0xff, 1, 0]);
        assert_eq!(all(Intset::new(&good).unwrap()).unwrap(), [-1, 1].map(PackedEntry::Number));
        assert!(Intset::new(&set(3, 0, &[])).is_err() && Intset::new(&set(2, 2, &[1, 0])).is_err());
        assert!(all(Intset::new(&set(2, 2, &[1, 0, 1, 0])).unwrap()).is_err());
    }
}
