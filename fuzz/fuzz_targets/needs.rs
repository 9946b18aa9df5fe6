//! See `src/stored/needs.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::needs;

fuzz_target!(|data: &[u8]| {
    needs::drive(data);
});
