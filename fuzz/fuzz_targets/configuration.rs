//! See `src/given/configuration.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::given::configuration;

fuzz_target!(|data: &[u8]| {
    configuration::drive(data);
});
