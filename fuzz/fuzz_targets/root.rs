//! See `src/stored/root.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::root;

fuzz_target!(|data: &[u8]| {
    root::drive(data);
});
