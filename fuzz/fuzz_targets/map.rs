//! See `src/stored/map.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::map;

fuzz_target!(|data: &[u8]| {
    map::drive(data);
});
