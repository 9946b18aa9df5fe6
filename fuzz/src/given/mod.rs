//! Parsers that need the engine: of signatures, of records that lie in a bucket as they are, and of
//! what an operator gives.

pub mod configuration;
pub mod identities;
pub mod records;
pub mod signature;
