//! The place of a replica, as a flag names it: `s3://BUCKET?region=…` or a directory.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Error, Result};
use url::Url;

use crate::flags::ReplicaWord;

/// A replica that a flag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReplicaPlace {
    pub(super) name: Name,
    pub(super) region: String,
    pub(super) kind: PlaceKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlaceKind {
    Directory(String),
    Bucket {
        bucket: String,
        endpoint: Option<String>,
        ca_file: Option<String>,
        /// `None`: it is found out.
        path_style: Option<bool>,
    },
}

impl ReplicaPlace {
    /// The place that a word names.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_engine::Class::Usage): it is none, or holds a secret.
    pub(super) fn read(word: &ReplicaWord) -> Result<Self> {
        let name = word.name.clone();
        let Some(place) = &word.place else {
            return Err(Error::usage(format!("replica {name} has no place")).hint(FORM));
        };
        if place.starts_with('/') {
            return Ok(Self { region: name.to_string(), name, kind: PlaceKind::Directory(place.clone()) });
        }
        // What is no URL may be a secret that was pasted in the wrong place.
        let url = Url::parse(place).map_err(|_| {
            Error::usage(format!("the place of replica {name} is no URL, and no absolute path")).hint(FORM)
        })?;
        Self::of_url(name, &url)
    }

    /// Where it is, for people.
    pub(super) fn shown(&self) -> String {
        match &self.kind {
            PlaceKind::Directory(path) => path.clone(),
            PlaceKind::Bucket { bucket, endpoint: None, .. } => format!("bucket {bucket} in {}", self.region),
            PlaceKind::Bucket { bucket, endpoint: Some(endpoint), .. } => format!("bucket {bucket} at {endpoint}"),
        }
    }

    /// What setup makes of it, and on which file system: its disk may not be mounted. `None`: it is
    /// there, or it is a bucket.
    pub(super) fn will_be_made(&self) -> Option<String> {
        let PlaceKind::Directory(path) = &self.kind else { return None };
        if Path::new(path).exists() {
            return None;
        }
        let on = Path::new(path).parent().and_then(mounted_at).map_or_else(
            || "on an unknown file system".to_owned(),
            |mount| format!("on the file system that is mounted at {}", mount.display()),
        );
        Some(format!("the directory {path} is made for replica {}, {on}", self.name))
    }

    /// As [`Self::read`], of a URL. Without a name, the replica is called as its bucket.
    pub(super) fn of_url(name: Name, url: &Url) -> Result<Self> {
        let refused =
            |why: String| Error::usage(format!("the place of replica {name} cannot be used")).because(why).hint(FORM);
        let bucket = url.host_str().filter(|_| url.scheme() == "s3").unwrap_or_default().to_owned();
        if bucket.is_empty() {
            return Err(refused("it is no s3:// URL with a bucket".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("it holds keys, and every user of this machine can see a command line".to_owned())
                .hint("change these keys, and leave them out: setup asks for them, or reads a file"));
        }
        if url.port().is_some() || !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(refused("a bucket has no port and no path".to_owned())
                .hint("write a port into endpoint=, and a path into --vault-prefix"));
        }
        let (mut region, mut endpoint, mut ca_file, mut path_style) = (None, None, None, None);
        for (key, value) in url.query_pairs() {
            let (value, slot) = (
                value.into_owned(),
                match key.as_ref() {
                    "region" => &mut region,
                    "endpoint" => &mut endpoint,
                    "ca_file" => &mut ca_file,
                    "path_style" => &mut path_style,
                    other => return Err(refused(format!("it has an unknown option `{}`", other.escape_debug()))),
                },
            );
            if value.is_empty() || slot.replace(value).is_some() {
                return Err(refused(format!("`{key}` is empty, or stands there twice")));
            }
        }
        let path_style = match path_style.as_deref() {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => return Err(refused("path_style is true or false".to_owned())),
        };
        let region = region.ok_or_else(|| refused("it names no region".to_owned()))?;
        Ok(Self { name, region, kind: PlaceKind::Bucket { bucket, endpoint, ca_file, path_style } })
    }
}

/// Where the file system of a folder is mounted: above it is another device.
fn mounted_at(folder: &Path) -> Option<PathBuf> {
    let mut at = folder.canonicalize().ok()?;
    let device = |path: &Path| path.metadata().map(|found| found.dev()).ok();
    let own = device(&at)?;
    while let Some(above) = at.parent().filter(|above| device(above) == Some(own)) {
        at = above.to_owned();
    }
    Some(at)
}

const FORM: &str =
    "write NAME=s3://BUCKET?region=eu-central-1, with &endpoint=https://… if it is not at AWS, or NAME=/DIRECTORY";

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ReplicaPlace> {
        ReplicaPlace::read(&ReplicaWord::placed(text).map_err(Error::usage)?)
    }

    #[test]
    fn a_place_is_a_bucket_or_a_directory() {
        let near = read("near=s3://shop?region=eu&endpoint=https%3A%2F%2Fs3.example%3A9000&path_style=true").unwrap();
        assert_eq!(near.region, "eu");
        let endpoint = Some("https://s3.example:9000".to_owned());
        let kind = PlaceKind::Bucket { bucket: "shop".to_owned(), endpoint, ca_file: None, path_style: Some(true) };
        assert_eq!(near.kind, kind);
        assert_eq!(read("far=/mnt/far").unwrap().region, "far");
    }

    #[test]
    fn what_is_made_is_told_with_its_file_system() {
        assert_eq!(mounted_at(Path::new("/proc/self/fd")), Some(PathBuf::from("/proc")));
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("far");
        let far = read(&format!("far={}", path.display())).unwrap();
        let told = far.will_be_made().unwrap();
        assert!(told.contains(&path.display().to_string()) && told.contains("mounted at /"), "{told}");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(far.will_be_made(), None);
    }

    #[test]
    fn what_is_no_place_is_refused_and_keys_are_not_repeated() {
        for bad in [
            "near",
            "near=",
            "near=shop",
            "NEAR=/x",
            "near=s3://?region=eu",
            "near=s3://shop",
            "near=https://shop?region=eu",
            "near=s3://shop?region=",
            "near=s3://shop?region=a&region=b",
            "near=s3://shop?region=a&x=y",
            "near=s3://shop:9000?region=a",
            "near=s3://shop/path?region=a",
            "near=s3://shop?region=a&path_style=yes",
            "near=s3://AKIA:hunter2@shop?region=eu",
            "near=hunter2",
        ] {
            let error = read(bad).unwrap_err();
            assert!(!error.chain_and_hint().contains("hunter2"), "{bad}: {error}");
        }
    }
}
