//! zstd frames: a document takes no more than it may, and comes back from any level.

use lifeboat_format::frames;

/// Decompressed bytes that a document may have here.
const MAX_DOCUMENT: u64 = 1 << 20;

/// Takes `data` for the frames of a document.
pub fn drive(data: &[u8]) -> bool {
    let first = frames::take_frame(data, MAX_DOCUMENT as usize).ok();
    if let Some((content, rest)) = &first {
        assert!(content.len() as u64 <= MAX_DOCUMENT && data.ends_with(rest), "another frame");
    }
    let Ok(text) = frames::decompress_document(data, data.len(), MAX_DOCUMENT) else { return false };
    assert!(first.is_none_or(|(content, _)| text.starts_with(&content)), "another content");
    assert!(text.len() as u64 <= MAX_DOCUMENT, "{} bytes", text.len());
    if let Some(limit) = (text.len() as u64).checked_sub(1) {
        assert!(frames::decompress_document(data, 0, limit).is_err(), "more than the limit passed");
    }
    for frame in [frames::compress(1, &text), frames::compress(3, &text), frames::compress_by_frequency(&text)] {
        let Ok(frame) = frame else { panic!("cannot be compressed again") };
        let mut out = vec![0; text.len()];
        assert!(frames::decompress(&frame, &mut out).is_ok() && out == text, "something else comes back");
        out.push(0);
        assert!(frames::decompress(&frame, &mut out).is_err(), "a frame fits another length");
    }
    true
}
