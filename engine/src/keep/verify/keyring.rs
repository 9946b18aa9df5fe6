//! Judges who signed the keys of a dataset. Only a root says who may.

use lifeboat_format::keyring::MAX_KEYRING_OBJECT_BYTES;
use lifeboat_format::layout;

use super::Judge;
use crate::catalog::signed::fetch_pair;

/// So many generations of a dataset's keys are looked at.
const MAX_JUDGED_GENERATIONS: usize = 64;

impl Judge<'_> {
    /// Whoever takes keys over, or copies them, believes only what somebody signed who may. So what
    /// was exchanged is a finding. Older versions signed none.
    pub(super) async fn keyring_signatures(&mut self) {
        let trust = &self.reader.keys().trust;
        if trust.root().is_none() {
            return;
        }
        let listed = &self.inventory.keyring;
        let objects = listed.iter().filter(|key| layout::parse_keyring_generation(self.dataset, key).is_some());
        let objects: Vec<String> = objects.cloned().collect();
        if objects.len() > MAX_JUDGED_GENERATIONS {
            let problem = format!("has {} generations of keys, and no more than these are looked at", objects.len());
            self.finding(layout::keyring(self.dataset), problem);
        }
        for key in objects.into_iter().take(MAX_JUDGED_GENERATIONS) {
            if !listed.contains(&layout::signature(&key)) {
                self.note(&format!("nobody has signed {key}: run `lifeboat init` on the host that made it"));
                continue;
            }
            let limit = MAX_KEYRING_OBJECT_BYTES as u64;
            let judged = match fetch_pair(self.inventory.replica.as_ref(), &key, limit).await {
                Ok((object, signature)) => trust.judge(self.reader.vault_id(), &key, &object, &signature).map(drop),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = judged {
                self.finding(key, error.chain());
            }
        }
    }
}
