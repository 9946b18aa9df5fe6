//! The encodings that a session can have, as far as a byte of a character in one of them can be
//! taken for a sign of ASCII: the client takes each byte of a dump for itself, and the server does
//! not.

/// Encodings in which the second byte of a character can be a backslash or a backquote. Shift-JIS
/// has characters of one byte that is not ASCII, too.
const WIDE_ENCODINGS: [(&[u8], Wide); 5] =
    [(b"big5", BIG5), (b"cp932", SHIFT_JIS), (b"gb18030", GBK), (b"gbk", GBK), (b"sjis", SHIFT_JIS)];
/// Encodings in which each byte of ASCII is that character. In `swe7`, a backquote is a letter.
#[rustfmt::skip]
const PLAIN_ENCODINGS: [&[u8]; 32] = [
    b"armscii8", b"ascii", b"binary", b"cp1250", b"cp1251", b"cp1256", b"cp1257", b"cp850", b"cp852", b"cp866",
    b"dec8", b"eucjpms", b"euckr", b"gb2312", b"geostd8", b"greek", b"hebrew", b"hp8", b"keybcs2", b"koi8r", b"koi8u",
    b"latin1", b"latin2", b"latin5", b"latin7", b"macce", b"macroman", b"tis620", b"ujis", b"utf8", b"utf8mb3",
    b"utf8mb4",
];
const BIG5: Wide =
    Wide { first: |byte| matches!(byte, 0xa1..=0xf9), second: |byte| matches!(byte, 0x40..=0x7e | 0xa1..=0xfe) };
/// Of the four bytes that a character of gb18030 can have, the second and the fourth are digits.
const GBK: Wide =
    Wide { first: |byte| matches!(byte, 0x81..=0xfe), second: |byte| matches!(byte, 0x40..=0x7e | 0x80..=0xfe) };
const SHIFT_JIS: Wide = Wide {
    first: |byte| matches!(byte, 0x81..=0x9f | 0xe0..=0xfc),
    second: |byte| matches!(byte, 0x40..=0x7e | 0x80..=0xfc),
};

/// Which bytes make a character of two bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wide {
    first: fn(u8) -> bool,
    second: fn(u8) -> bool,
}

impl Wide {
    /// Whether a text begins with such a character.
    pub(super) fn begins(self, text: &[u8]) -> bool {
        matches!(text, [first, second, ..] if (self.first)(*first) && (self.second)(*second))
    }
}

/// The characters of two bytes of the encoding of this name, if some of them mislead the client.
/// `None` if the encoding is not known.
pub(super) fn find(name: &[u8]) -> Option<Option<Wide>> {
    let wide = WIDE_ENCODINGS.iter().find(|(known, _)| *known == name).map(|(_, wide)| *wide);
    (wide.is_some() || PLAIN_ENCODINGS.contains(&name)).then_some(wide)
}
