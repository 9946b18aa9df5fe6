//! A walker of its own: what a tree holds, by nothing but the standard library and attribute calls.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// All that must be equal of each entry, by its path.
pub(super) fn walked(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(path) = queue.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = match meta.file_type() {
            kind if kind.is_file() => blake3::hash(&fs::read(&path).unwrap()).to_string(),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            kind if kind.is_dir() => {
                queue.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            _ => format!("{}", meta.rdev()),
        };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        let told = format!(
            "{:o} {}:{} {}.{:09} {links} {} {content} {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            if meta.is_dir() { 0 } else { meta.size() },
            attributes(&path)
        );
        found.insert(path.strip_prefix(root).unwrap().to_owned(), told);
    }
    found
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value[..length].to_vec()
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// In which entries two trees differ.
pub(super) fn differences(a: &Path, b: &Path) -> Vec<String> {
    let (a, b) = (walked(a), walked(b));
    let paths = a.keys().chain(b.keys().filter(|path| !a.contains_key(*path)));
    let differ = paths.filter(|path| a.get(*path) != b.get(*path));
    differ.map(|path| format!("{}: {:?}, {:?}", path.display(), a.get(path), b.get(path))).collect()
}
