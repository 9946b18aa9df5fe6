//! See `src/stored/document.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::document;

fuzz_target!(|data: &[u8]| {
    document::drive(data);
});
