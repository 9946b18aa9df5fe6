//! Who runs a throw-away server that root starts.

use lifeboat_base::{Class, Context, Error, Result};

/// The user and group that a throw-away server runs as if we are root: `preferred`, or `nobody`.
///
/// # Errors
/// There is neither.
pub(crate) fn unprivileged_user(preferred: &str) -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").context(Class::Source, || "cannot read /etc/passwd")?;
    let entry = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let user = entry(preferred).or_else(|| entry("nobody"));
    user.map(Some).ok_or_else(|| {
        Error::source_failed(format!(
            "the throw-away server cannot run: there is neither a user `{preferred}` nor `nobody`"
        ))
        .hint("run the drill as an unprivileged user")
    })
}
