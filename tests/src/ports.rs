//! Free TCP ports, probed, never assumed.
