//! See `src/given/identities.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::given::identities;

fuzz_target!(|data: &[u8]| {
    identities::drive(data);
});
