//! See `src/stored/ids.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::ids;

fuzz_target!(|data: &[u8]| {
    ids::drive(data);
});
