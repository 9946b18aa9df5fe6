//! Free TCP ports, probed, never assumed.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

/// SeaweedFS serves gRPC this far above each HTTP port.
const GRPC_OFFSET: u16 = 10_000;

static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A loopback port that is free now, below the range that the system hands out by itself, and that
/// this process was not given before. The port 10000 above it is free as well.
///
/// # Panics
/// If none is found in 10000 tries.
#[must_use]
pub fn free() -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let port = (0..10_000)
        .map(|_| rand::random_range(11_000..21_000))
        .find(|port| !taken.contains(port) && is_free(*port) && is_free(*port + GRPC_OFFSET));
    let Some(port) = port else { panic!("no free TCP port on the loopback between 11000 and 21000") };
    taken.insert(port);
    port
}
