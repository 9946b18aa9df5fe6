//! Takes the SQL text of a dump apart into words, texts, operators and brackets, without judging
//! what it says. Blanks are dropped; all else is kept byte by byte.

/// No definition of ours is nested as deeply. More would only use up the stack.
const MAX_NESTING: usize = 200;
/// What operators are made of.
const OPERATOR_BYTES: &[u8] = b"+-*/<>=~!@#%^&|`?:";

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// A word, a number, an operator, a comment, or a quoted name or text with its quotes.
    Piece(Vec<u8>),
    /// What stands between brackets, after the opening one.
    Group(u8, Vec<Part>),
}

impl Part {
    pub(super) fn is(&self, text: &[u8]) -> bool {
        matches!(self, Self::Piece(piece) if piece == text)
    }

    /// What is in it, if it is a group in these brackets.
    pub(super) fn inside(&self, bracket: u8) -> Option<&[Part]> {
        match self {
            Self::Group(opening, inner) if *opening == bracket => Some(inner),
            _ => None,
        }
    }

    /// A word, a number, or a quoted name or text.
    pub(super) fn is_value(&self) -> bool {
        matches!(self, Self::Piece(piece) if piece.first().is_some_and(|first| is_word(*first) || matches!(first, b'\'' | b'"')))
    }
}

/// The parts of `text`. `None` if a quote or bracket is not closed.
pub(super) fn parts(text: &[u8]) -> Option<Vec<Part>> {
    let mut open: Vec<(u8, Vec<Part>)> = vec![(0, Vec::new())];
    let mut rest = text;
    while let Some(first) = rest.first() {
        let (piece, after) = rest.split_at(length(rest)?);
        rest = after;
        match first {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'(' | b'[' if open.len() > MAX_NESTING => return None,
            b'(' | b'[' => open.push((*first, Vec::new())),
            b')' | b']' => {
                let (bracket, inner) = open.pop()?;
                if (bracket, *first) != (b'(', b')') && (bracket, *first) != (b'[', b']') {
                    return None;
                }
                open.last_mut()?.1.push(Part::Group(bracket, inner));
            }
            _ => open.last_mut()?.1.push(Part::Piece(piece.to_vec())),
        }
    }
    let (_, parts) = open.pop()?;
    open.is_empty().then_some(parts)
}

/// How long the piece at the beginning of `text` is.
fn length(text: &[u8]) -> Option<usize> {
    let run = |belongs: fn(u8) -> bool| text.iter().position(|byte| !belongs(*byte)).unwrap_or(text.len());
    match text {
        [b'-', b'-', ..] => Some(text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len())),
        // No dump writes these between its statements' words.
        [b'/', b'*', ..] => None,
        [b'E' | b'e', b'\'', ..] => Some(1 + quoted(&text[1..], b'\'', true)?),
        [b'\'', ..] => quoted(text, b'\'', false),
        [b'"', ..] => quoted(text, b'"', false),
        [b'$', ..] => dollar_quoted(text),
        [b':', b':', ..] => Some(2),
        [first, ..] if first.is_ascii_digit() => Some(run(|byte| is_word(byte) || byte == b'.')),
        [first, ..] if is_word(*first) => Some(run(|byte| is_word(byte) || byte == b'$')),
        [first, ..] if OPERATOR_BYTES.contains(first) => Some(operator(text)),
        _ => Some(1),
    }
}

/// An operator ends before a comment and before a cast.
fn operator(text: &[u8]) -> usize {
    let goes_on = |at: &usize| {
        OPERATOR_BYTES.contains(&text[*at]) && (*at == 0 || !matches!(text[*at..], [b'-', b'-', ..] | [b':', b':', ..]))
    };
    (0..text.len()).take_while(goes_on).count()
}

fn quoted(text: &[u8], quote: u8, escapes: bool) -> Option<usize> {
    let mut at = 1;
    loop {
        match (text.get(at)?, text.get(at + 1)) {
            (b'\\', _) if escapes => at += 2,
            (byte, Some(next)) if *byte == quote && *next == quote => at += 2,
            (byte, _) if *byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// A text between two `$tag$`, or a parameter such as `$1`.
fn dollar_quoted(text: &[u8]) -> Option<usize> {
    let name = text[1..].iter().position(|byte| !is_word(*byte)).unwrap_or(text.len() - 1);
    if text.get(1 + name) != Some(&b'$') || text[1].is_ascii_digit() {
        return Some(1 + name);
    }
    let (tag, body) = text.split_at(name + 2);
    let end = body.windows(tag.len()).position(|part| part == tag)?;
    Some(2 * tag.len() + end)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<String> {
        let piece = |part: &Part| match part {
            Part::Piece(piece) => String::from_utf8_lossy(piece).into_owned(),
            Part::Group(bracket, inner) => format!("{}{}", char::from(*bracket), inner.len()),
        };
        parts(text.as_bytes()).unwrap().iter().map(piece).collect()
    }

    #[test]
    fn quotes_comments_and_operators_are_kept_as_they_are() {
        assert_eq!(
            pieces("a.\"b \"\"(\" <> 'it''s ('::text"),
            ["a", ".", "\"b \"\"(\"", "<>", "'it''s ('", "::", "text"]
        );
        assert_eq!(pieces("E'\\'(' $$ ( $$ $a$ $$ ) $a$ $1"), ["E'\\'('", "$$ ( $$", "$a$ $$ ) $a$", "$1"]);
        assert_eq!(pieces("1.5e3 -- ( 'x\nf(1, 2)[3]"), ["1.5e3", "-- ( 'x", "f", "(3", "[1"]);
        assert_eq!(pieces("a+-1 <@b"), ["a", "+-", "1", "<@", "b"]);
        assert_eq!(pieces("a@@--x"), ["a", "@@", "--x"]);
    }

    #[test]
    fn what_is_not_closed_is_not_understood() {
        for bad in ["(", ")", "(]", "'a", "\"a", "$a$ b", "/* a */", "E'\\'", "(()"] {
            assert_eq!(parts(bad.as_bytes()), None, "{bad}");
        }
        let deep = |levels: usize| parts([vec![b'('; levels], vec![b')'; levels]].concat().as_slice());
        assert!(deep(MAX_NESTING).is_some() && deep(MAX_NESTING + 1).is_none() && deep(1 << 20).is_none());
    }
}
