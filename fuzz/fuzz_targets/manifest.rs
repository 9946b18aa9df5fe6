//! See `src/stored/manifest.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::manifest;

fuzz_target!(|data: &[u8]| {
    manifest::drive(data);
});
