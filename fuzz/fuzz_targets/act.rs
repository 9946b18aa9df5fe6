//! See `src/stored/act.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::act;

fuzz_target!(|data: &[u8]| {
    act::drive(data);
});
