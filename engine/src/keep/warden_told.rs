//! What of a warden's looks stands in a record, which has bounds.
//!
//! Each dataset has a share of each bound: whoever floods one hides nothing of another. What does
//! not fit is counted.

use lifeboat_base::escape;
use lifeboat_format::log::{
    FailedLook, LookedLock, MAX_FAILED_LOOKS, MAX_LOG_RECORD_BYTES, MAX_LOG_TEXT_BYTES, MAX_LOOKED_DATASETS,
    MAX_LOOKED_LOCKS, MAX_REFUSED_MARKS, MAX_VETOED_MARKS, MAX_VETOING_PEOPLE, RefusedMark, VetoedMark, WaitingMarks,
    WardenLook,
};

use super::warden::WardenLooks;

/// What else stands in a record has room in the rest.
const LONGEST_TOLD: usize = MAX_LOG_RECORD_BYTES - (160 << 10);
/// No text is cut shorter.
const SHORTEST_TEXT: usize = 64;

impl WardenLooks {
    /// As much of it as fits into a record.
    pub(super) fn told(&self) -> WardenLook {
        let (mut text, mut part) = (MAX_LOG_TEXT_BYTES, 1);
        loop {
            let look = self.shortened(text, part);
            let length = serde_json::to_vec(&look).map_or(0, |told| told.len());
            if length <= LONGEST_TOLD || part > MAX_LOOKED_DATASETS {
                return look;
            }
            if text > SHORTEST_TEXT { text /= 2 } else { part *= 2 }
        }
    }

    /// With texts of at most so many bytes, and one `part` of each bound.
    fn shortened(&self, text: usize, part: usize) -> WardenLook {
        let names: std::collections::BTreeSet<_> = self.datasets.iter().map(|report| &report.dataset).collect();
        let failed_names: std::collections::BTreeSet<_> = self.failed.iter().map(|(dataset, _)| dataset).collect();
        let share = |bound: usize, among: usize| (bound / part / among.max(1)).max(1);
        let mut look = WardenLook {
            looked: self.datasets.iter().map(|report| report.dataset.clone()).take(MAX_LOOKED_DATASETS).collect(),
            ..WardenLook::default()
        };
        for report in &self.datasets {
            let dataset = &report.dataset;
            if let (Some(until), Some(since)) = (report.waiting.values().min(), report.waiting_since) {
                let (marks, until, delay) = (report.waiting.len() as u64, *until, report.delay);
                look.waiting.push(WaitingMarks { dataset: dataset.clone(), marks, until, since, delay });
            }
            let most = share(MAX_REFUSED_MARKS, names.len());
            for (at, (mark, because)) in report.refused.iter().take(most).enumerate() {
                let because = counted(because, left(report.refused.len(), at, most), text);
                look.refused.push(RefusedMark { dataset: dataset.clone(), mark: mark.clone(), because });
            }
            let most = share(MAX_VETOED_MARKS, names.len());
            for (mark, names) in report.vetoed.iter().take(most) {
                let by = names.iter().take(share(MAX_VETOING_PEOPLE, 1)).cloned().collect();
                look.vetoed.push(VetoedMark { dataset: dataset.clone(), mark: mark.clone(), by });
            }
        }
        for dataset in &failed_names {
            let of_it: Vec<&String> =
                self.failed.iter().filter(|(other, _)| other == *dataset).map(|(_, why)| why).collect();
            let most = share(MAX_FAILED_LOOKS, failed_names.len());
            for (at, why) in of_it.iter().take(most).enumerate() {
                let because = counted(&escape::line(why), left(of_it.len(), at, most), text);
                look.failed.push(FailedLook { dataset: (*dataset).clone(), because });
            }
        }
        for (dataset, standings) in &self.locks {
            for (replica, standing) in standings.iter().take(share(MAX_LOOKED_LOCKS, self.locks.len())) {
                let (dataset, replica) = (dataset.clone(), replica.clone());
                let at_most = Some(standing.at_most).filter(|at_most| *at_most > standing.period);
                let (period, since) = (standing.period, standing.since());
                look.locks.push(LookedLock { dataset, replica, period, at_most, since });
            }
        }
        look.waiting.truncate(MAX_LOOKED_DATASETS);
        look.refused.truncate(MAX_REFUSED_MARKS);
        look.vetoed.truncate(MAX_VETOED_MARKS);
        look.failed.truncate(MAX_FAILED_LOOKS);
        look.locks.truncate(MAX_LOOKED_LOCKS);
        look
    }
}

/// How many of `all` are left out behind the one `at` this place, if it is the last of `most`.
fn left(all: usize, at: usize, most: usize) -> usize {
    if at + 1 == most { all - most } else { 0 }
}

/// A text of at most `longest` bytes, that tells how many others are left out.
fn counted(told: &str, left: usize, longest: usize) -> String {
    let before = if left > 0 { format!("{left} more are left out; ") } else { String::new() };
    let mut told = before + told;
    told.truncate(told.floor_char_boundary(longest));
    told
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;
    use lifeboat_base::Result;
    use lifeboat_format::id::{Name, SnapshotId};

    use super::super::prune::PruneOutcome;
    use super::super::warden::WardenReport;
    use super::*;

    fn report(dataset: &str, refused: u32, because: &str) -> Result<WardenReport> {
        let id = |number: u32| SnapshotId::new(DateTime::UNIX_EPOCH, number);
        let vetoed_by = (0..64).map(|number| format!("{number:0>60}").parse::<Name>()).collect::<Result<_>>()?;
        Ok(WardenReport {
            dataset: dataset.parse()?,
            carried_out: Vec::new(),
            refused: (0..refused).map(|number| (id(number), because.to_owned())).collect(),
            vetoed: (0..refused).map(|number| (id(number), Clone::clone(&vetoed_by))).collect(),
            waiting: BTreeMap::new(),
            waiting_since: None,
            delay: 0,
            outcome: PruneOutcome::default(),
        })
    }

    #[test]
    fn a_flood_in_one_dataset_hides_nothing_of_another_and_always_fits() -> Result<()> {
        let shop: Name = "shop".parse()?;
        let looks = WardenLooks {
            datasets: vec![report("flood", 10_000, &"\"".repeat(1024))?, report("shop", 1, "the newest")?],
            failed: (0..1000)
                .map(|number| Ok(("flood".parse()?, format!("why {number}"))))
                .chain([Ok((shop.clone(), "the shop failed".to_owned()))])
                .collect::<Result<_>>()?,
            locks: Vec::new(),
        };
        let told = looks.told();
        assert!(serde_json::to_vec(&told).is_ok_and(|told| told.len() <= LONGEST_TOLD));
        assert!(told.refused.iter().any(|refused| refused.dataset == shop && refused.because == "the newest"));
        assert!(told.vetoed.iter().any(|vetoed| vetoed.dataset == shop));
        assert!(told.failed.iter().any(|failed| failed.dataset == shop && failed.because == "the shop failed"));
        let mut of_flood = told.refused.iter().filter(|refused| refused.dataset != shop);
        let last = of_flood.next_back().map(|refused| refused.because.clone()).unwrap_or_default();
        assert!(last.contains("more are left out; "), "{last}");

        let short = WardenLooks { datasets: vec![report("shop", 2, "the newest")?], ..WardenLooks::default() };
        let told = short.told();
        assert!(told.refused.len() == 2 && told.refused.iter().all(|refused| refused.because == "the newest"));
        assert_eq!(told.vetoed[1].by.len(), 64);
        Ok(())
    }
}
