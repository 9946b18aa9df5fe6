//! Client tools: how they are run, fed and read, and what they inherit.

pub(crate) mod environment;
pub(crate) mod pipes;
pub(crate) mod process;
