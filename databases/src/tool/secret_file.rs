//! A file for one tool that holds a password.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use lifeboat_base::secret::Secret;
use lifeboat_base::{Class, Context, Error, Result};
use rustix::fs::{MemfdFlags, memfd_create};

/// A file in memory, which tools believe: it is a regular file, and closed to others.
///
/// # Errors
/// There is no memory for it.
pub(crate) fn secret_file(parts: &[&[u8]]) -> Result<File> {
    let write = || -> std::io::Result<File> {
        let mut file = File::from(memfd_create("lifeboat-password", MemfdFlags::CLOEXEC)?);
        file.set_permissions(Permissions::from_mode(0o600))?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        Ok(file)
    };
    write().context(Class::Failed, || "cannot hold the database password in memory")
}

/// The password as text, without the line break at its end.
///
/// # Errors
/// [`Class::Keys`]: it is not UTF-8, or has several lines.
pub(crate) fn password_line(password: &Secret) -> Result<&str> {
    let text = std::str::from_utf8(password.expose()).context(Class::Keys, || "the database password is not UTF-8")?;
    let text = text.trim_end_matches(['\r', '\n']);
    match text.contains('\n') {
        true => Err(Error::keys("the database password holds a line break").hint("write the password on one line")),
        false => Ok(text),
    }
}
