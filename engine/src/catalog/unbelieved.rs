//! Counts what replicas show and none returns signed. Anybody can put objects into a bucket, and
//! each costs whoever looks at it two requests to every holder. So a replica that shows too many is
//! left aside, and there is one warning for each replica.

use std::collections::BTreeMap;
use std::fmt::Display;

use lifeboat_base::Error;
use lifeboat_format::id::Name;

/// If a replica shows more objects of one kind in a dataset that no replica returns signed, it is
/// left aside: what it alone shows beside them is not looked at.
pub(crate) const MAX_UNBELIEVED: usize = 1024;

/// What each replica shows and cannot be believed, of one kind of object.
pub(crate) struct Unbelieved {
    /// What such an object is, with its article.
    kind: &'static str,
    replicas: BTreeMap<Name, Counted>,
}

struct Counted {
    objects: usize,
    /// Which one was the first, and why it is not believed.
    first: String,
}

impl Unbelieved {
    /// Of objects of this kind, such as `a snapshot that nobody signed`.
    pub(crate) fn new(kind: &'static str) -> Self {
        Self { kind, replicas: BTreeMap::new() }
    }

    /// Whether all of `holders` are left aside.
    pub(crate) fn leaves_aside<'n>(&self, holders: impl IntoIterator<Item = &'n Name>) -> bool {
        holders.into_iter().all(|holder| self.is_beyond(holder))
    }

    fn is_beyond(&self, replica: &Name) -> bool {
        self.replicas.get(replica).is_some_and(|counted| counted.objects > MAX_UNBELIEVED)
    }

    /// The replicas that are left aside.
    pub(crate) fn left_aside(&self) -> impl Iterator<Item = &Name> {
        self.replicas.keys().filter(|replica| self.is_beyond(replica))
    }

    /// Counts an object that these replicas show.
    pub(crate) fn add<'n>(&mut self, holders: impl IntoIterator<Item = &'n Name>, object: impl Display, why: &Error) {
        for holder in holders {
            let first = || format!("{object}: {}", why.chain());
            let counted = self.replicas.entry(holder.clone());
            counted.or_insert_with(|| Counted { objects: 0, first: first() }).objects += 1;
        }
    }

    /// A warning for each replica. `consequence` says what is not done with what it shows.
    pub(crate) fn warnings(&self, consequence: &str) -> Vec<String> {
        let warning = |(replica, counted): (&Name, &Counted)| {
            let (kind, first) = (self.kind, &counted.first);
            let more = match counted.objects - 1 {
                0 => String::new(),
                more if self.is_beyond(replica) => format!(
                    " (and {more} more; the replica is left aside: what it alone shows beside them is not looked at)"
                ),
                more => format!(" (and {more} more)"),
            };
            format!("replica {replica} shows {kind}{more}, so {consequence}: {first}")
        };
        self.replicas.iter().map(warning).collect()
    }

    /// Logs these warnings.
    pub(crate) fn log(&self, consequence: &str) {
        for warning in self.warnings(consequence) {
            tracing::warn!("{warning}");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_left_aside_beyond_the_limit_and_warned_of_once() {
        let [bad, good]: [Name; 2] = ["bad", "good"].map(|name| name.parse().unwrap());
        let mut unbelieved = Unbelieved::new("a snapshot that nobody signed");
        let why = Error::integrity("no signature");
        for n in 0..=MAX_UNBELIEVED {
            assert!(!unbelieved.leaves_aside([&bad]), "{n}");
            unbelieved.add([&bad], n, &why);
        }
        unbelieved.add([&good], "x", &why);
        assert!(unbelieved.leaves_aside([&bad]));
        assert!(!unbelieved.leaves_aside([&good]) && !unbelieved.leaves_aside([&bad, &good]));
        let warnings = unbelieved.warnings("it is left aside");
        assert_eq!(warnings.len(), 2);
        assert!(
            warnings[0].contains("bad")
                && warnings[0].contains(&format!("{MAX_UNBELIEVED} more; the replica is left aside"))
        );
        assert!(
            warnings[1].ends_with("shows a snapshot that nobody signed, so it is left aside: x: no signature"),
            "{warnings:?}"
        );
    }
}
