//! Bytes in, bytes out: chunk, compress, encrypt, seal, sign. No I/O, no clock.
pub mod sign;
