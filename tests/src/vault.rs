//! A vault in directories or regions, for whole-system tests.
