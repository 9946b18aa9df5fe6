//! See `src/stored/veto.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::veto;

fuzz_target!(|data: &[u8]| {
    veto::drive(data);
});
