//! Variable-length integers: what is read is what was written, and nothing else is read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_format::varint;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Some(value) = varint::take(&mut rest) {
        let read = data.len() - rest.len();
        let mut written = Vec::new();
        varint::put(&mut written, value);
        assert!(data[..read].ends_with(&written), "{value} has two forms");
    }
});
