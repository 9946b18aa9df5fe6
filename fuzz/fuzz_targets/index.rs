//! See `src/stored/index.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::index;

fuzz_target!(|data: &[u8]| {
    index::drive(data);
});
