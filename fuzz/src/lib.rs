//! What the targets do with an input: one module for each, which says whether its parser took it.
//!
//! The tests in `tests/` use the same files; so nothing here may need libFuzzer.

#[cfg(feature = "engine")]
pub mod given;
pub mod stored;
