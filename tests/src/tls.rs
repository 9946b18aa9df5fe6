//! A private certificate authority for test servers.
