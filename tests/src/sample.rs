//! The sample data.
