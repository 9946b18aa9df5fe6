//! Hands a loaded database over: every object to its owner, and rights to roles.
//!
//! What the server refuses of that is a failure as any other: a table that belongs to another, or
//! that nobody may read, is not restored.

use std::sync::PoisonError;

use lifeboat_base::Result;

use super::failures::incomplete;
use super::fill::Filling;
use super::late::Views;
use super::loader::LoadsAs;
use super::orphans::{ORPHANS, make_orphans};
use super::ownership::Ownership;
use super::refusals::{OWNER_OF, Refusals};
use super::steps::{MAX_STEPS, Step};
use crate::wanted::LoadFailure;

/// The class of a failure to give an owner or a right.
const REFUSED_CLASS: &str = "rights";

impl Filling<'_> {
    /// Says what belongs to whom, and who may do what. What the server did not do goes to
    /// `refusals`. Returns what was not understood.
    ///
    /// # Errors
    /// The server cannot be asked; or code of the dump did what it may not.
    pub(super) async fn settle_owners(
        &self,
        views: &Views,
        encoding: &str,
        refusals: &mut Refusals,
    ) -> Result<Ownership> {
        let LoadsAs::Loader(loader) = self.loads_as else { return Ok(Ownership::default()) };
        let mut ownership = std::mem::take(&mut *self.ownership.lock().unwrap_or_else(PoisonError::into_inner));
        self.end(loader, &views.of_superusers, &ownership.values, encoding).await?;
        make_orphans(self.server).await?;
        loader.give_back_public(self.server, self.place).await?;
        refusals.anew.append(&mut ownership.anew);
        let all = std::mem::take(&mut ownership.steps);
        let mut left = all.steps();
        loop {
            let steps: Vec<Step> = left.by_ref().take(MAX_STEPS).collect();
            if steps.is_empty() {
                break;
            }
            refusals.take(&steps, self.server.run_all(self.place, &steps, encoding).await?);
        }
        loader.give_back(self.server, self.place, ORPHANS).await?;
        // From here on, code runs as the owner of what calls it, never as the owner of all.
        loader.forget_statistics(self.server, self.place).await?;
        self.set_sequences(&ownership.values, encoding).await?;
        loader.unguard(self.server, self.place).await?;
        Ok(ownership)
    }

    /// Lists refused owners and rights among the failures.
    ///
    /// # Errors
    /// There are any, and to go on is not wanted.
    pub(super) fn tell_refused(&self, refused: Vec<(String, String)>) -> Result<()> {
        let mut told = Vec::new();
        for (object, reason) in refused {
            // Nobody owns what could not be loaded.
            if object.strip_prefix(OWNER_OF).is_some_and(|of| self.failures.has(of)) {
                continue;
            }
            let class = REFUSED_CLASS.to_owned();
            told.push(LoadFailure { database: self.database.to_owned(), object, class, reason });
        }
        told.iter().for_each(|failure| self.failures.add(failure.clone()));
        incomplete(&told).filter(|_| !self.keep_going).map_or(Ok(()), Err)
    }
}
