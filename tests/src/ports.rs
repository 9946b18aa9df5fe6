//! Free TCP ports, probed, never assumed, and never given to two tests at once.
//!
//! A port that is only probed may be taken before its server listens: tests of other processes
//! look for ports at the same time. So whoever gets a port holds a lock of its number until its
//! process ends: a Unix socket in the abstract namespace, which leaves no file behind and which the
//! kernel lets go, however the process dies.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{LazyLock, Mutex, PoisonError};

/// SeaweedFS serves gRPC this far above each HTTP port.
const GRPC_OFFSET: u16 = 10_000;

/// The ports that this process was given, with their locks.
static TAKEN: LazyLock<Mutex<HashMap<u16, UnixListener>>> = LazyLock::new(Mutex::default);

/// A loopback port that is free now, below the range that the system hands out by itself, and that
/// no living process of these tests was given. The port 10000 above it is free as well.
///
/// # Panics
/// If none is found in 10000 tries.
#[must_use]
pub fn free() -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    for _ in 0..10_000 {
        let port = rand::random_range(11_000..21_000);
        let Some(lock) = lock(port) else { continue };
        if is_free(port) && is_free(port + GRPC_OFFSET) {
            taken.insert(port, lock);
            return port;
        }
    }
    panic!("no free TCP port on the loopback between 11000 and 21000")
}

/// The lock of a port's number, unless somebody holds it, this process included.
fn lock(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("lifeboat-test-port-{port}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

#[test]
fn no_port_is_given_twice() {
    let ports = [free(), free(), free()];
    assert!(ports.iter().all(|port| lock(*port).is_none()), "{ports:?}");
    assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2], "{ports:?}");
}
