//! Where servers are: sockets of an address, and hosts that need not prove who they are.

use std::path::PathBuf;

/// Whether this is a unix socket, or an address of this machine.
pub(crate) fn is_here(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let address = host.parse::<std::net::IpAddr>();
    host.is_empty() || host.starts_with(['/', '@']) || host == "localhost" || address.is_ok_and(|it| it.is_loopback())
}
/// The path and the user in `/run/x.sock[?user=NAME]`, behind `socket:` in an address.
///
/// # Errors
/// What is wrong with it, without repeating it: it may hold a password.
pub(crate) fn socket_and_user(text: &str) -> Result<(PathBuf, Option<String>), &'static str> {
    let (path, options) = text.split_once('?').unwrap_or((text, ""));
    if !path.starts_with('/') {
        return Err("`socket:` needs the absolute path of the socket");
    }
    let mut user = None;
    for (name, value) in url::form_urlencoded::parse(options.as_bytes()) {
        match &*name {
            "user" => user = Some(value.into_owned()),
            _ => return Err("a socket takes `user`"),
        }
    }
    Ok((PathBuf::from(path), user))
}
