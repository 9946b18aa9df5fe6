//! See `src/stored/pack.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::pack;

fuzz_target!(|data: &[u8]| {
    pack::drive(data);
});
