//! Who is believed, where owners have signed a root: on the built programs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attacks;
mod life;
