//! What the server did not do, when owners and rights were given, as the snapshot has it.

use super::steps::{Step, StepsOutcome};

/// How a step is called that gives an owner.
pub(crate) const OWNER_OF: &str = "owner of ";

/// What the server did not do as the snapshot has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    /// What it refused, and why.
    pub(crate) refused: Vec<(String, String)>,
    /// What another role granted than in the snapshot.
    pub(crate) anew: Vec<String>,
}

impl Refusals {
    /// Takes what came of `steps`.
    pub(crate) fn take(&mut self, steps: &[Step], outcome: StepsOutcome) {
        for failure in outcome.failures {
            let Some(step) = steps.get(failure.step) else { continue };
            if failure.mended {
                self.anew.push(step.what.clone());
            } else {
                self.refused.push((step.what.clone(), failure.reason));
            }
        }
        // The server says on what, but not in which step.
        self.refused.extend(outcome.not_given.into_iter().map(|reason| ("rights".to_owned(), reason)));
    }
}
