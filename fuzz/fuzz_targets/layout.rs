//! See `src/stored/layout.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::layout;

fuzz_target!(|data: &[u8]| {
    layout::drive(data);
});
