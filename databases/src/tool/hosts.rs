//! Which hosts need not prove who they are.

/// Whether this is a unix socket, or an address of this machine.
pub(crate) fn is_here(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let address = host.parse::<std::net::IpAddr>();
    host.is_empty() || host.starts_with(['/', '@']) || host == "localhost" || address.is_ok_and(|it| it.is_loopback())
}
