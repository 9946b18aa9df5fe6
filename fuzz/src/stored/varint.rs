//! Variable-length integers: what is read is what was written, and nothing else is read.

use lifeboat_format::varint;

/// Reads integers until one is refused.
pub fn drive(data: &[u8]) -> bool {
    let mut rest = data;
    while let Some(value) = varint::take(&mut rest) {
        let read = data.len() - rest.len();
        let mut written = Vec::new();
        varint::put(&mut written, value);
        assert!(data[..read].ends_with(&written), "{value} has two forms");
    }
    rest.is_empty()
}
