//! See `src/stored/varint.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::varint;

fuzz_target!(|data: &[u8]| {
    varint::drive(data);
});
