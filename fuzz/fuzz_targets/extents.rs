//! See `src/stored/extents.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::extents;

fuzz_target!(|data: &[u8]| {
    extents::drive(data);
});
