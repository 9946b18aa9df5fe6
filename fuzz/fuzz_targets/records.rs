//! See `src/given/records.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::given::records;

fuzz_target!(|data: &[u8]| {
    records::drive(data);
});
