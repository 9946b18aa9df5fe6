//! Compares the values of one member of a group with the paths in another, however many there are.
//!
//! What comes from a worker is bytes: a value is a path if the tree has just these bytes below its
//! root. Both are compared by their hashes, in [files](super::buckets).

use std::path::{Path, PathBuf};

use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_databases::{ListedItem, Listing, ThrowAway};
use lifeboat_format::id::{Name, SnapshotId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::buckets::{Buckets, HASH_BYTES, compare, few_enough, remove};
use crate::config::GroupReference;

/// The group that a drill was a part of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupPart {
    /// The group.
    pub name: Name,
    /// The moment of its snapshots.
    pub moment: SnapshotId,
    /// How far apart the members' views of it began.
    pub spread_seconds: f64,
    /// What was looked for from this member in others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<ReferenceResult>,
}

/// What was found of one reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceResult {
    /// Its name in the configuration.
    pub name: Name,
    /// The member that holds the paths.
    pub to: Name,
    /// How many values were looked for.
    pub checked: u64,
    /// How many rows had none.
    pub without_value: u64,
    /// How many values are no path there.
    pub dangling: u64,
    /// How many may be.
    pub at_most: u64,
    /// So many values must have been looked for: where there are fewer, it found nothing wrong
    /// because it saw too little.
    #[serde(default)]
    pub at_least: u64,
    /// The first of them. A published report has digests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<String>,
    /// Why it could not be checked. A published report has a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The class of the error. It is told here, and not published.
    #[serde(skip)]
    pub error_class: Option<Class>,
    /// What to do about the error. It is told here, and not published.
    #[serde(skip)]
    pub error_hint: Option<String>,
}

impl ReferenceResult {
    /// Whether it was checked, with as many values as there must be, and no more dangle than may.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.error.is_none() && self.dangling <= self.at_most && self.checked >= self.at_least
    }

    /// One that could not be checked.
    #[must_use]
    pub fn unchecked(reference: &GroupReference, error: &Error) -> Self {
        Self {
            name: reference.name.clone(),
            to: reference.to.clone(),
            checked: 0,
            without_value: 0,
            dangling: 0,
            at_most: reference.at_most,
            at_least: reference.at_least,
            first: Vec::new(),
            error: Some(error.chain()),
            error_class: Some(error.class()),
            error_hint: error.hint_text().map(str::to_owned),
        }
    }
}

/// Where the paths of each member are while a group is drilled, as hashes under a secret key: who
/// writes the data cannot make two of them equal.
#[derive(Debug)]
pub(super) struct ComparedFolder {
    folder: PathBuf,
    key: [u8; 32],
}

impl ComparedFolder {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), key: rand::random() }
    }

    /// Lists the paths that `server` holds.
    ///
    /// # Errors
    /// They are not known then.
    pub(super) async fn list_paths(&self, member: &Name, server: &mut dyn ThrowAway) -> Result<()> {
        let whole = self.folder.join(member.as_str());
        let part = self.folder.join(format!(".{member}"));
        let mut buckets = Buckets::create(&part)?;
        let hash = |path: &[u8]| self.hash(path);
        let listed = each(server, &Listing::Paths, |path| match path {
            Some(path) => buckets.add(&hash(&path), &[]),
            None => Ok(()),
        });
        listed.await.and_then(|()| buckets.finish()).inspect_err(|_| remove(&part))?;
        std::fs::rename(&part, &whole).context(Class::Storage, || format!("cannot make {}", whole.display()))
    }

    /// Looks for the values that `server` gives among the paths of another member.
    ///
    /// # Errors
    /// The paths are not known, the query fails, or the disk does.
    pub(super) async fn look_for(
        &self,
        reference: &GroupReference,
        server: &mut dyn ThrowAway,
    ) -> Result<ReferenceResult> {
        let paths = self.folder.join(reference.to.as_str());
        if !paths.is_dir() {
            return Err(Error::failed(format!("the paths of {} are not known", reference.to))
                .hint("see what its drill found; to be compared, it must be loaded at least"));
        }
        let values = self.folder.join(format!(".values-{}", reference.name));
        let (mut buckets, mut without_value) = (Buckets::create(&values)?, 0);
        let listing = Listing::Values { database: reference.database.clone(), sql: reference.sql.clone() };
        let listed = each(server, &listing, |value| {
            let Some(value) = value else {
                without_value += 1;
                return few_enough(without_value);
            };
            let hash = self.hash(&path_of(&reference.prefix, &value).unwrap_or_default());
            buckets.add(&hash, &value)
        });
        // Its room is for others, above all if it has filled the disk.
        listed.await.inspect_err(|_| remove(&values))?;
        let checked = buckets.count;
        buckets.finish().inspect_err(|_| remove(&values))?;
        let compared = tokio::task::spawn_blocking(move || {
            let compared = compare(&paths, &values);
            remove(&values);
            compared
        });
        let (dangling, first) = compared.await.context(Class::Failed, || "a worker thread failed")??;
        Ok(ReferenceResult {
            name: reference.name.clone(),
            to: reference.to.clone(),
            checked,
            without_value,
            dangling,
            at_most: reference.at_most,
            at_least: reference.at_least,
            first,
            error: None,
            error_class: None,
            error_hint: None,
        })
    }

    fn hash(&self, path: &[u8]) -> [u8; HASH_BYTES] {
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(&blake3::keyed_hash(&self.key, path).as_bytes()[..HASH_BYTES]);
        hash
    }
}

/// The path that a value names; `None`: it can be none. A slash at its beginning stands for the
/// root of the tree. Nothing else is changed: no entry is called `..`, or has an empty name.
fn path_of(prefix: &str, value: &[u8]) -> Option<Vec<u8>> {
    let value = value.strip_prefix(b"/").unwrap_or(value);
    let prefix = prefix.trim_matches('/').as_bytes();
    if value.is_empty() {
        return None;
    }
    Some(if prefix.is_empty() { value.to_vec() } else { [prefix, b"/", value].concat() })
}

/// Gives each item to `take`, as they come.
async fn each(
    server: &mut dyn ThrowAway,
    listing: &Listing,
    mut take: impl FnMut(ListedItem) -> Result<()> + Send,
) -> Result<()> {
    let (items, mut listed) = mpsc::channel::<Vec<ListedItem>>(1);
    let taking = async move {
        while let Some(batch) = listed.recv().await {
            batch.into_iter().try_for_each(&mut take)?;
        }
        Ok(())
    };
    let (told, taken) = tokio::join!(server.list(listing, items), taking);
    // If nobody takes any more, that is why no more was told.
    taken.and(told)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use async_trait::async_trait;
    use lifeboat_databases::proof::{CheckResult, DrillQuery, ProofResult};
    use lifeboat_databases::streams::StoredStreams;

    use super::*;

    /// A database that lists these items, and then may fail.
    struct Lists(Vec<ListedItem>, Option<&'static str>);

    #[async_trait]
    impl ThrowAway for Lists {
        fn server_version(&self) -> &str {
            ""
        }

        async fn load(&mut self, _: &dyn StoredStreams) -> Result<()> {
            Ok(())
        }

        async fn check(&mut self, _: &[DrillQuery]) -> Result<Vec<CheckResult>> {
            Ok(Vec::new())
        }

        async fn ask(&mut self, _: &[DrillQuery]) -> Result<Vec<CheckResult>> {
            Ok(Vec::new())
        }

        async fn prove(&mut self, _: &dyn StoredStreams) -> Result<ProofResult> {
            Ok(ProofResult::default())
        }

        async fn list(&mut self, _: &Listing, to: mpsc::Sender<Vec<ListedItem>>) -> Result<()> {
            for batch in self.0.chunks(1000) {
                to.send(batch.to_vec()).await.map_err(|_| Error::failed("nobody listens"))?;
            }
            self.1.map_or(Ok(()), |why| Err(Error::source_failed(why)))
        }

        async fn stop(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }

    fn reference(prefix: &str) -> GroupReference {
        GroupReference {
            name: "attachments".parse().unwrap(),
            from: "db".parse().unwrap(),
            database: None,
            sql: String::new(),
            to: "files".parse().unwrap(),
            prefix: prefix.to_owned(),
            at_most: 0,
            at_least: 1,
        }
    }

    async fn found(prefix: &str, paths: &[&[u8]], values: Vec<ListedItem>) -> ReferenceResult {
        let place = tempfile::tempdir().unwrap();
        let folder = ComparedFolder::new(place.path());
        let mut tree = Lists(paths.iter().map(|path| Some(path.to_vec())).collect(), None);
        folder.list_paths(&"files".parse().unwrap(), &mut tree).await.unwrap();
        let found = folder.look_for(&reference(prefix), &mut Lists(values, None)).await.unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "only the paths stay");
        found
    }

    #[tokio::test]
    async fn every_value_that_is_no_path_is_counted_and_the_first_are_named() {
        let paths: Vec<Vec<u8>> = (0..5000).map(|number| format!("a/{number}").into_bytes()).collect();
        let paths: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
        let value = |number: u32| Some(format!("{number}").into_bytes());
        let good = found("a/", &paths, (0..5000).chain(0..5000).map(value).collect()).await;
        assert_eq!((good.checked, good.dangling, good.passed()), (10_000, 0, true));
        let bad = found("a", &paths, (0..6000).map(value).chain([None]).collect()).await;
        assert_eq!((bad.checked, bad.without_value, bad.dangling, bad.passed()), (6000, 1, 1000, false));
        let first: Vec<String> = (5000..5010).map(|number| number.to_string()).collect();
        assert_eq!(bad.first, first);
        assert!(ReferenceResult { at_most: 1000, ..bad }.passed());
    }

    #[tokio::test]
    async fn a_reference_that_gives_nothing_to_look_for_has_not_passed() {
        for values in [vec![], vec![None, None]] {
            let none = found("", &[b"a"], values).await;
            assert_eq!((none.checked, none.dangling, none.passed()), (0, 0, false), "{none:?}");
            assert!(ReferenceResult { at_least: 0, ..none }.passed());
        }
    }

    #[tokio::test]
    async fn hostile_values_are_paths_only_if_the_tree_has_them() {
        let some = |values: &[&[u8]]| values.iter().map(|value| Some(value.to_vec())).collect();
        let paths: [&[u8]; 4] = [b"a", b"a/b", b"odd\n\xff", b"etc/passwd"];
        let good = found("", &paths, some(&[b"a/b", b"/a/b", b"odd\n\xff", b"/etc/passwd"])).await;
        assert_eq!(good.dangling, 0, "{good:?}");
        let long = vec![b'x'; 4096];
        let values: [&[u8]; 8] = [b"", b"/", b"../a", b"a/../a", b"a//b", b"./a", b"a/", &long];
        let bad = found("", &paths, some(&values)).await;
        assert_eq!(bad.dangling, 8, "{bad:?}");
        assert_eq!((bad.first[0].as_str(), bad.first[2].as_str()), ("(empty)", "../a"));
        assert!(bad.first[7].chars().count() == 201 && bad.first[7].ends_with('…'));
        let terminal = found("", &paths, some(&[b"\x1b[2J\xff"])).await;
        assert_eq!(terminal.first, ["\\x1b[2J\\xff"]);
        // Nothing above the tree is a place in it.
        let above = found("a", &paths, some(&[b"../etc/passwd", b"b"])).await;
        assert_eq!(above.dangling, 1);
    }

    #[tokio::test]
    async fn a_listing_that_fails_leaves_nothing_on_the_disk() {
        let fails = || Lists(vec![Some(b"a".to_vec())], Some("it is gone"));
        let place = tempfile::tempdir().unwrap();
        let folder = ComparedFolder::new(place.path());
        assert!(folder.list_paths(&"files".parse().unwrap(), &mut fails()).await.is_err());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        folder.list_paths(&"files".parse().unwrap(), &mut Lists(Vec::new(), None)).await.unwrap();
        assert!(folder.look_for(&reference(""), &mut fails()).await.is_err());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "the paths, and no values");
    }

    #[tokio::test]
    async fn without_the_paths_nothing_is_said_to_be_right() {
        let place = tempfile::tempdir().unwrap();
        let folder = ComparedFolder::new(place.path());
        let refused = folder.look_for(&reference(""), &mut Lists(Vec::new(), None)).await.unwrap_err();
        assert!(refused.message().contains("are not known"));
        let unchecked = ReferenceResult::unchecked(&reference(""), &refused);
        assert!(!unchecked.passed());
        assert_eq!(unchecked.error_class, Some(Class::Failed));
        assert!(unchecked.error_hint.as_ref().is_some_and(|hint| hint.contains("its drill found")), "{unchecked:?}");
        let json = serde_json::to_string(&unchecked).unwrap();
        assert!(!json.contains("error_"), "they are told on this host alone: {json}");
    }
}
