//! The encodings of PostgreSQL that a database may have.

/// Encodings that a database may have. In others, which only clients have, a byte of a letter may
/// look like a quote or a backslash, and end a quoted text.
const SERVER_ENCODINGS: [&str; 35] = [
    "UTF8",
    "SQL_ASCII",
    "EUC_JP",
    "EUC_CN",
    "EUC_KR",
    "EUC_TW",
    "EUC_JIS_2004",
    "MULE_INTERNAL",
    "LATIN1",
    "LATIN2",
    "LATIN3",
    "LATIN4",
    "LATIN5",
    "LATIN6",
    "LATIN7",
    "LATIN8",
    "LATIN9",
    "LATIN10",
    "WIN1250",
    "WIN1251",
    "WIN1252",
    "WIN1253",
    "WIN1254",
    "WIN1255",
    "WIN1256",
    "WIN1257",
    "WIN1258",
    "WIN866",
    "WIN874",
    "KOI8R",
    "KOI8U",
    "ISO_8859_5",
    "ISO_8859_6",
    "ISO_8859_7",
    "ISO_8859_8",
];
/// Whether a database may have this encoding.
pub(crate) fn is_of_servers(encoding: &str) -> bool {
    SERVER_ENCODINGS.contains(&encoding)
}
