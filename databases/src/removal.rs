//! Ends what a drill restored as files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Removes a tree, whose folders may keep us out.
pub(crate) fn remove_tree(directory: &Path) -> std::io::Result<()> {
    if !directory.try_exists()? {
        return Ok(());
    }
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => remove_tree(&entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    std::fs::remove_dir(directory)
}
