//! Real SeaweedFS regions.
