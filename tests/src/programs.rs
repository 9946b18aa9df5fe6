//! The built lifeboatd and lifeboat, run as an operator runs them.
