//! Real throw-away PostgreSQL servers.
