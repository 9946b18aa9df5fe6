//! The order in which everything is restored when a region is lost, and what that order costs.
//!
//! A dataset begins when all that it comes after are restored and one of the places is free. Of
//! those that may begin, the lowest priority goes first, and then the name. The same rule decides
//! what a rehearsal starts next and what it would take with other places.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_format::id::Name;

use crate::config::PlaceInRecovery;

/// What is to be restored, and how much of it at once.
#[derive(Debug, Clone)]
pub struct RecoveryOrder {
    steps: BTreeMap<Name, PlaceInRecovery>,
    at_once: usize,
}

/// One dataset in the order, in seconds from the loss on.
#[derive(Debug, Clone, PartialEq)]
pub struct RecoveryStep {
    /// The dataset.
    pub dataset: Name,
    /// When it begins.
    pub began: f64,
    /// When it is restored.
    pub ended: f64,
    /// What ended as it began: one that it comes after, or one whose place it took. `None`: it
    /// waited for nothing.
    pub waited_for: Option<Name>,
}

impl RecoveryOrder {
    /// Of these datasets, `at_once` at a time, at least one. One that comes after a dataset which
    /// is not among them does not wait for it.
    #[must_use]
    pub fn new(steps: BTreeMap<Name, PlaceInRecovery>, at_once: usize) -> Self {
        Self { steps, at_once: at_once.max(1) }
    }

    /// How many are restored at once.
    #[must_use]
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// All of them.
    pub fn datasets(&self) -> impl Iterator<Item = &Name> {
        self.steps.keys()
    }

    /// What `dataset` comes after, as far as it is restored, too.
    pub fn before<'a>(&'a self, dataset: &Name) -> impl Iterator<Item = &'a Name> {
        let after = self.steps.get(dataset).map_or(&[] as &[Name], |place| &place.after);
        after.iter().filter(|other| self.steps.contains_key(*other))
    }

    /// What begins next, if these began and these of them have ended. `None`: nothing may begin
    /// before another one ends, or all have begun.
    #[must_use]
    pub fn next(&self, begun: &BTreeSet<Name>, ended: &BTreeSet<Name>) -> Option<&Name> {
        if begun.len() - ended.len() >= self.at_once {
            return None;
        }
        let may_begin = |name: &&Name| !begun.contains(*name) && self.before(name).all(|other| ended.contains(other));
        let ready = self.steps.keys().filter(may_begin);
        ready.min_by_key(|name| (self.steps.get(*name).map(|place| place.priority), *name))
    }

    /// When each dataset is restored, if it takes so many seconds by itself. One of which nothing
    /// is told takes none.
    #[must_use]
    pub fn steps(&self, seconds: &BTreeMap<Name, f64>) -> Vec<RecoveryStep> {
        let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
        let (mut running, mut steps) = (Vec::<RecoveryStep>::new(), Vec::new());
        let (mut now, mut last) = (0.0, None::<Name>);
        loop {
            while let Some(next) = self.next(&begun, &ended).cloned() {
                let took = seconds.get(&next).copied().unwrap_or_default();
                begun.insert(next.clone());
                running.push(RecoveryStep { dataset: next, began: now, ended: now + took, waited_for: last.clone() });
            }
            let Some(first) = (0..running.len()).min_by(|a, b| running[*a].ended.total_cmp(&running[*b].ended)) else {
                return steps;
            };
            let step = running.remove(first);
            now = step.ended;
            last = Some(step.dataset.clone());
            ended.insert(step.dataset.clone());
            steps.push(step);
        }
    }

    /// When all are restored, if so many were restored at once.
    #[must_use]
    pub fn total_with(&self, at_once: usize, seconds: &BTreeMap<Name, f64>) -> f64 {
        let other = Self::new(self.steps.clone(), at_once);
        other.steps(seconds).iter().map(|step| step.ended).fold(0.0, f64::max)
    }
}

/// The steps that the whole waits for, first to last: each began when the one before it ended.
#[must_use]
pub fn critical_path(steps: &[RecoveryStep]) -> Vec<&RecoveryStep> {
    let mut path = Vec::new();
    let mut next = steps.iter().max_by(|a, b| a.ended.total_cmp(&b.ended));
    while let Some(step) = next {
        path.push(step);
        next = step.waited_for.as_ref().and_then(|name| steps.iter().find(|other| other.dataset == *name));
    }
    path.reverse();
    path
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn order(at_once: usize, steps: &[(&str, u16, &[&str])]) -> RecoveryOrder {
        let steps = steps.iter().map(|(dataset, priority, after)| {
            (name(dataset), PlaceInRecovery { priority: *priority, after: after.iter().map(|of| name(of)).collect() })
        });
        RecoveryOrder::new(steps.collect(), at_once)
    }

    fn shown(steps: &[RecoveryStep]) -> Vec<String> {
        let waited = |step: &RecoveryStep| step.waited_for.as_ref().map_or("-".to_owned(), ToString::to_string);
        steps.iter().map(|step| format!("{} {}-{} {}", step.dataset, step.began, step.ended, waited(step))).collect()
    }

    #[test]
    fn priorities_go_first_and_nothing_before_what_it_comes_after() {
        let seconds = BTreeMap::from([(name("a"), 4.0), (name("b"), 2.0), (name("c"), 1.0)]);
        let one = order(1, &[("a", 100, &[]), ("b", 1, &[]), ("c", 0, &["a"])]);
        assert_eq!(shown(&one.steps(&seconds)), ["b 0-2 -", "a 2-6 b", "c 6-7 a"]);
        let two = order(2, &[("a", 100, &[]), ("b", 1, &[]), ("c", 0, &["a"])]);
        let steps = two.steps(&seconds);
        assert_eq!(shown(&steps), ["b 0-2 -", "a 0-4 -", "c 4-5 a"]);
        let path: Vec<&str> = critical_path(&steps).iter().map(|step| step.dataset.as_str()).collect();
        assert_eq!(path, ["a", "c"]);
        assert!((one.total_with(2, &seconds) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_restored_is_not_waited_for() {
        let alone = order(1, &[("c", 0, &["a"])]);
        assert_eq!(shown(&alone.steps(&BTreeMap::new())), ["c 0-0 -"]);
        assert!(order(3, &[]).steps(&BTreeMap::new()).is_empty());
        assert!(critical_path(&[]).is_empty());
    }

    #[test]
    fn all_are_restored_whatever_the_order_and_no_more_at_once_than_places() {
        let names: Vec<String> = (0..12).map(|number| format!("d{number}")).collect();
        for at_once in 1..6 {
            let steps: Vec<(&str, u16, Vec<&str>)> = (0..12)
                .map(|n| {
                    (
                        names[n].as_str(),
                        (n * 7 % 5) as u16,
                        (0..n).filter(|m| n % (m + 2) == 1).map(|m| names[m].as_str()).collect(),
                    )
                })
                .collect();
            let steps: Vec<(&str, u16, &[&str])> = steps.iter().map(|(a, b, c)| (*a, *b, c.as_slice())).collect();
            let order = order(at_once, &steps);
            let seconds = names.iter().enumerate().map(|(n, of)| (name(of), f64::from(n as u32 % 4 + 1))).collect();
            let found = order.steps(&seconds);
            assert_eq!(found.len(), 12);
            for step in &found {
                let overlaps =
                    found.iter().filter(|other| other.began <= step.began && step.began < other.ended).count();
                assert!(overlaps <= at_once, "{found:?}");
                for before in order.before(&step.dataset) {
                    assert!(
                        found.iter().any(|other| other.dataset == *before && other.ended <= step.began),
                        "{found:?}"
                    );
                }
            }
        }
    }
}
