//! Text of others on terminals and in logs. Names, keys and error texts of servers, buckets and
//! tools may hold characters that a terminal obeys, or that let a line read as another one. Here
//! they become visible: `\u{1b}`.
//!
//! Programs write through [`lines`] or [`json`]. Where a value stands in a line or a cell,
//! [`line()`] keeps it from beginning a line of its own.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

/// One line, whatever is in it.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, acts, |out, c| match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c => show(out, c),
    })
}

/// Text that is in lines already.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| acts(c) && c != '\n', show)
}

/// A JSON document. It means the same, and escapes more than JSON asks for.
#[must_use]
pub fn json(document: &str) -> Cow<'_, str> {
    // Outside of strings JSON has nothing of this kind but line breaks and spaces.
    escape(
        document,
        |c| acts(c) && c != '\n',
        |out, c| {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // A String takes everything.
                let _ = write!(out, "\\u{unit:04x}");
            }
        },
    )
}

/// Whether a terminal obeys this character, or shows what stands around it in another order.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn show(out: &mut String, c: char) {
    out.extend(c.escape_unicode());
}

fn escape(text: &str, wanted: impl Fn(char) -> bool, show: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(&wanted) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if wanted(c) { show(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// How the events of a log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Events {
    /// A line of text each.
    Text,
    /// A JSON document each.
    Json,
}

/// Escapes a log. Each write is taken as one event that ends with a line break, as the formatter of
/// `tracing` writes it.
#[derive(Debug)]
pub struct LogWriter<W> {
    to: W,
    events: Events,
}

impl<W: io::Write> LogWriter<W> {
    /// Writes to `to`.
    pub fn new(to: W, events: Events) -> Self {
        Self { to, events }
    }
}

impl<W: io::Write> io::Write for LogWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let escaped = match self.events {
            Events::Text => line(text),
            Events::Json => json(text),
        };
        self.to.write_all(format!("{escaped}\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const HOSTILE: &str = "a\u{1b}]0;title\u{7}b\u{9b}2Jc\u{7f}d\u{202e}e\u{2066}f\ng\r\0\u{e0041}";

    #[test]
    fn nothing_acts_and_nothing_is_lost() {
        assert_eq!(line(HOSTILE), r"a\u{1b}]0;title\u{7}b\u{9b}2Jc\u{7f}d\u{202e}e\u{2066}f\ng\r\u{0}\u{e0041}");
        assert_eq!(lines("a\nb\tc\r"), "a\nb\\u{9}c\\u{d}");
        for plain in ["Größe 数据 🦀 `x` \"y\" a\\nb", ""] {
            assert!(matches!(line(plain), Cow::Borrowed(same) if same == plain));
        }
        for c in (0..=0x9f).chain(0x2000..0x2070).filter_map(char::from_u32) {
            let stays = line(c.encode_utf8(&mut [0; 4])).chars().eq([c]);
            let harmful = c < ' '
                || ('\u{7f}'..='\u{9f}').contains(&c)
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || ('\u{2066}'..='\u{2069}').contains(&c);
            assert!(!(stays && harmful), "{c:?}");
        }
    }

    #[test]
    fn json_means_the_same() {
        let document = format!("{{\n  \"k\": \"{}\"\n}}", HOSTILE.replace(|c: char| c < ' ', ""));
        let escaped = json(&document);
        assert!(escaped.chars().all(|c| c == '\n' || !acts(c)), "{escaped}");
        assert!(escaped.contains(r"\u009b2Jc\u007fd\u202ee\u2066f") && escaped.contains(r"\udb40\udc41"), "{escaped}");
    }

    #[test]
    fn an_event_is_a_line() {
        let mut out = Vec::new();
        LogWriter::new(&mut out, Events::Text).write_all(b"a\nERROR forged \x1b[2J\n").unwrap();
        LogWriter::new(&mut out, Events::Json).write_all("{\"a\":\"\u{9b}\"}\n".as_bytes()).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a\\nERROR forged \\u{1b}[2J\n{\"a\":\"\\u009b\"}\n");
    }
}
