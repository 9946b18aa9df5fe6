//! See `src/stored/log.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::log;

fuzz_target!(|data: &[u8]| {
    log::drive(data);
});
