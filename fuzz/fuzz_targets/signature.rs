//! See `src/given/signature.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::given::signature;

fuzz_target!(|data: &[u8]| {
    signature::drive(data);
});
