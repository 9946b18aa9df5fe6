//! Roots and the lines that carry them: what is read can be written, and comes back.

use lifeboat_format::line::{self, OwnerLine, RequestLine, RootLine};
use lifeboat_format::root::{self, Root};

/// Takes `data` for a root, and for lines.
pub fn drive(data: &[u8]) -> bool {
    if let Ok(text) = std::str::from_utf8(data) {
        drive_line::<OwnerLine>(text);
        drive_line::<RequestLine>(text);
        drive_line::<RootLine>(text);
    }
    let Ok(read) = Root::parse(data, "a root") else { return false };
    // Written with indents, it may be longer than it was.
    if let Ok(json) = read.to_json() {
        assert!(Root::parse(&json, "a root").is_ok_and(|again| again == read), "written again it is something else");
    }
    assert_eq!(root::fingerprint(data).split(' ').count(), 8);
    let hash = lifeboat_format::id::Digest::of(data);
    assert!(read.breaks_chain(&read, hash).is_some(), "a root follows itself");
    true
}

fn drive_line<L: line::Line + PartialEq>(text: &str) {
    if let Ok(read) = line::read::<L>(text)
        && let Ok(written) = line::write(&read)
    {
        assert!(line::read::<L>(&written).is_ok_and(|again| again == read), "written again it is something else");
    }
}
