//! The frame around what `pg_dumpall` writes: `\restrict TOKEN` and, at the end, `\unrestrict
//! TOKEN`, with a token that newer tools make up each time.
//!
//! In between, `psql` obeys none of its own commands but the end with the same token. So nobody may
//! foresee it: the name of an object could hold that line. A snapshot of the same globals must be
//! the same, though. So a capture takes a token that is made of everything else: whoever wanted to
//! write it into a name would have to know the digest of a text that holds it.

/// Keeps these tokens apart from every other use of BLAKE3.
const FRAME_CONTEXT: &str = "Lifeboat 2026-12-01 token of the frame around globals";
const FRAME_BEGIN_WORD: &[u8] = b"\\restrict ";
const FRAME_END_WORD: &[u8] = b"\\unrestrict ";

/// `text` with a token of its own content. Without a frame it stays as it is.
pub(super) fn with_settled_token(text: Vec<u8>) -> Vec<u8> {
    let Some(made_up) = token(&text) else { return text };
    // Only lines with that token are the frame: nobody else could write one.
    let word = |line: &[u8]| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let of = |word: &'static [u8]| (line.strip_prefix(word) == Some(made_up)).then_some(word);
        of(FRAME_BEGIN_WORD).or_else(|| of(FRAME_END_WORD))
    };
    let mut hasher = blake3::Hasher::new_derive_key(FRAME_CONTEXT);
    for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| word(line).is_none()) {
        hasher.update(line);
    }
    let settled = hasher.finalize().to_hex();
    let mut framed = Vec::with_capacity(text.len() + 4 * settled.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match word(line) {
            Some(word) => {
                framed.extend_from_slice(word);
                framed.extend_from_slice(settled.as_bytes());
                framed.push(b'\n');
            }
            None => framed.extend_from_slice(line),
        }
    }
    framed
}

/// The token of the first line that is neither empty nor a comment, if that line begins a frame.
/// No name of anybody stands before it.
fn token(text: &[u8]) -> Option<&[u8]> {
    let first = text.split(|byte| *byte == b'\n').find(|line| !line.is_empty() && !line.starts_with(b"--"))?;
    let token = first.strip_prefix(FRAME_BEGIN_WORD)?;
    (!token.is_empty() && token.iter().all(u8::is_ascii_alphanumeric)).then_some(token)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::postgres::globals::Globals;

    fn globals(token: &str, role: &str) -> String {
        format!(
            "--\n-- PostgreSQL database cluster dump\n--\n\n\\restrict {token}\n\nCREATE ROLE {role};\n\n\
            \\unrestrict {token}\n\n--\n-- PostgreSQL database cluster dump complete\n--\n\n"
        )
    }

    fn settled(text: &str) -> String {
        String::from_utf8(with_settled_token(text.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn the_same_globals_are_the_same_text_whatever_token_was_made_up() {
        let one = settled(&globals("aB3", "app"));
        assert_eq!(one, settled(&globals("Zz9", "app")));
        assert_eq!(one, settled(&one), "a settled text is settled");
        let token = token(one.as_bytes()).unwrap();
        assert_eq!(token.len(), 64);
        let token = String::from_utf8(token.to_vec()).unwrap();
        assert_eq!(one, globals(&token, "app"), "something else was changed");
        assert!(!settled(&globals("aB3", "other")).contains(&token), "other globals have the same token");
        // Restores take both.
        for text in [&one, &globals("aB3", "app")] {
            let read = Globals::parse(text).unwrap();
            assert!(read.roles.contains_key("app") && read.strange.is_empty(), "{:?}", read.strange);
        }
    }

    #[test]
    fn a_name_that_holds_the_end_of_a_frame_is_part_of_what_the_token_is_made_of() {
        let with = |inside: &str| settled(&globals("aB3", &format!("\"x\n\\unrestrict {inside}\n\\! id\"")));
        let mut guessed = String::from("guess");
        for _ in 0..3 {
            let text = with(&guessed);
            let token = String::from_utf8(token(text.as_bytes()).unwrap().to_vec()).unwrap();
            assert!(text.contains(&format!("\n\\unrestrict {guessed}\n\\! id")), "a name was changed");
            assert_eq!(text.matches(&format!("\\unrestrict {token}\n")).count(), 1, "the guess was right");
            guessed = token;
        }
    }

    #[test]
    fn a_text_without_a_frame_stays_as_it_is() {
        for text in [
            "",
            "--\n-- a comment\n--\n\nSET x = 1;\n\\restrict aB3\n\\unrestrict aB3\n",
            "\\restrict a b\nSET x = 1;\n\\unrestrict a b\n",
            "\\restrict \nSET x = 1;\n",
        ] {
            assert_eq!(settled(text), text);
        }
    }
}
