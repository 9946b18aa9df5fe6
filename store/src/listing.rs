//! The budget of a listing. Whoever owns a bucket decides what a listing says, so its pages, its
//! objects, its names and its time are bounded. A listing that is beyond, or goes round in circles,
//! is an error.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::waiting::Waiting;

/// No listing has more pages. Stores may put fewer objects on a page than they could.
const MAX_PAGES: usize = 16 << 10;
/// No listing has more objects: with packs of 16 MiB, about 23 TiB.
pub(crate) const MAX_LISTED_OBJECTS: usize = 1_500_000;
/// The names that a caller keeps take no more bytes together, …
const MAX_NAME_BYTES: usize = 64 << 20;
/// … of which each takes so many beside its text.
const BYTES_PER_NAME: usize = 64;
/// A listing ends within this time, not counting waits for a cap on the bandwidth.
const MAX_LISTING_TIME: Duration = Duration::from_secs(3600);
/// A walk through versions may have so many times as much.
const VERSIONS_SHARE: usize = 16;

/// A listing under way: what was asked and what it has taken so far.
/// [`Replica::next_page`](crate::Replica::next_page) goes on with it.
pub struct Listing {
    prefix: String,
    /// The token of the page that is asked for next; `None` after the last page.
    next: Option<Option<String>>,
    /// The hashes of the tokens so far: a token that comes back would go on for ever.
    tokens: HashSet<u64>,
    hasher: RandomState,
    pages: usize,
    objects: usize,
    name_bytes: usize,
    began: Instant,
    /// How many times as much as a listing it may have.
    share: usize,
    /// When the caller last got a page, if its time does not count, and how much that was so far.
    paused: Option<Instant>,
    idle: Duration,
    pub(crate) waiting: Waiting,
}

impl Listing {
    /// Will list the objects whose key begins with `prefix`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            next: Some(None),
            tokens: HashSet::new(),
            hasher: RandomState::new(),
            pages: 0,
            objects: 0,
            name_bytes: 0,
            began: Instant::now(),
            share: 1,
            paused: None,
            idle: Duration::ZERO,
            waiting: Waiting::default(),
        }
    }

    /// The same for the versions of objects, of which there are more.
    pub(crate) fn of_versions(prefix: &str) -> Self {
        Self { share: VERSIONS_SHARE, ..Self::new(prefix) }
    }

    /// From now on time does not count, …
    pub(crate) fn pause(&mut self) {
        self.paused = Some(Instant::now());
    }

    /// … and from now on it does again.
    pub(crate) fn go_on(&mut self) {
        self.idle += self.paused.take().map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// What the keys begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The token of the page to ask for; `None` if there are no more pages.
    pub(crate) fn take_token(&mut self) -> Option<Option<String>> {
        self.next.take()
    }

    /// Counts a page.
    ///
    /// # Errors
    /// Why the listing cannot be believed.
    pub(crate) fn admit_page(&mut self, objects: usize, next: Option<String>) -> Result<(), String> {
        self.pages += 1;
        self.objects += objects;
        let most = MAX_LISTED_OBJECTS * self.share;
        if self.objects > most {
            return Err(format!("it has more than {most} objects"));
        }
        let Some(next) = next else { return Ok(()) };
        if !self.tokens.insert(self.hasher.hash_one(&next)) {
            return Err("it goes round in circles".to_owned());
        }
        let most = MAX_PAGES * self.share;
        if self.pages >= most {
            return Err(format!("it has more than {most} pages"));
        }
        let longest = MAX_LISTING_TIME.saturating_mul(u32::try_from(self.share).unwrap_or(u32::MAX));
        if self.began.elapsed().saturating_sub(self.waiting.total() + self.idle) > longest {
            return Err(format!("it takes more than {longest:?}"));
        }
        self.next = Some(Some(next));
        Ok(())
    }

    /// Counts a name that the caller keeps.
    ///
    /// # Errors
    /// Why the listing cannot be believed.
    pub fn admit_name(&mut self, key: &str) -> Result<(), String> {
        self.name_bytes += key.len() + BYTES_PER_NAME;
        if self.name_bytes <= MAX_NAME_BYTES {
            return Ok(());
        }
        Err(format!("its names take more than {} MiB", MAX_NAME_BYTES >> 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(listing: &mut Listing, objects: usize, next: Option<usize>) -> Result<bool, String> {
        if listing.take_token().is_none() {
            return Ok(false);
        }
        listing.admit_page(objects, next.map(|next| next.to_string())).map(|()| true)
    }

    #[tokio::test]
    async fn a_listing_ends_with_the_last_page_and_within_its_budget() {
        let mut listing = Listing::new("");
        assert_eq!(page(&mut listing, MAX_LISTED_OBJECTS, None), Ok(true));
        assert_eq!(page(&mut listing, 1, None), Ok(false), "there is no page after the last");
        let mut listing = Listing::new("");
        assert!(page(&mut listing, MAX_LISTED_OBJECTS + 1, None).is_err_and(|why| why.contains("objects")));

        let mut listing = Listing::new("");
        for number in 1..MAX_PAGES {
            assert_eq!(page(&mut listing, 0, Some(number)), Ok(true));
        }
        assert!(page(&mut listing, 0, Some(0)).is_err_and(|why| why.contains("pages")));
    }

    #[tokio::test]
    async fn a_token_that_comes_back_is_refused() {
        let mut listing = Listing::new("");
        assert_eq!((page(&mut listing, 1, Some(1)), page(&mut listing, 1, Some(2))), (Ok(true), Ok(true)));
        assert!(page(&mut listing, 1, Some(1)).is_err_and(|why| why.contains("circles")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_that_takes_for_ever_ends() {
        let mut listing = Listing::new("");
        tokio::time::advance(MAX_LISTING_TIME).await;
        assert_eq!(page(&mut listing, 1, Some(1)), Ok(true));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(page(&mut listing, 1, Some(2)).is_err_and(|why| why.contains("takes")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_has_more_and_the_time_of_the_caller_does_not_count() {
        let mut walk = Listing::of_versions("");
        assert_eq!(page(&mut walk, MAX_LISTED_OBJECTS + 1, Some(1)), Ok(true));
        walk.pause();
        tokio::time::advance(MAX_LISTING_TIME * 100).await;
        walk.go_on();
        assert_eq!(page(&mut walk, 1, Some(2)), Ok(true));
        tokio::time::advance(MAX_LISTING_TIME * 17).await;
        assert!(page(&mut walk, 1, Some(3)).is_err_and(|why| why.contains("takes")));
    }

    #[tokio::test]
    async fn names_that_are_kept_are_bounded() {
        let (mut listing, half) = (Listing::new(""), "x".repeat(MAX_NAME_BYTES / 2 - BYTES_PER_NAME));
        assert!(listing.admit_name(&half).is_ok() && listing.admit_name(&half).is_ok());
        assert!(listing.admit_name("").is_err());
    }
}
