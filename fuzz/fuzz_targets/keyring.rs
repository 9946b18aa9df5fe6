//! See `src/stored/keyring.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::stored::keyring;

fuzz_target!(|data: &[u8]| {
    keyring::drive(data);
});
