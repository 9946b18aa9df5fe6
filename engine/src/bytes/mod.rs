//! Bytes in, bytes out: chunk, compress, encrypt, seal, sign. No I/O, no clock, no names.
//!
//! `FORMAT.md` specifies what each of these produces.

pub mod buffers;
pub mod chunk;
pub mod compress;
pub mod crypt;
mod cut;
pub mod planes;
pub mod seal;
pub mod sign;
pub mod varint;
