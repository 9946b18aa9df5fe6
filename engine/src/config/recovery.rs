//! Validates `[recovery]` and `[dataset.recovery]`: in which order everything is restored when a
//! region is lost.

use std::collections::BTreeSet;

use lifeboat_base::settings::SettingsReader;
use lifeboat_format::id::Name;

use super::fields::name;
use super::raw::{RawPlaceInRecovery, RawRecovery};
use super::{Dataset, defaults};

/// So many datasets are restored at once at most: each needs a worker, and `lifeboat-worker.socket`
/// lets in no more.
pub const MAX_RESTORES_AT_ONCE: usize = 4;

/// The place of a dataset in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceInRecovery {
    /// Lower numbers begin first.
    pub priority: u16,
    /// Datasets that must be restored before.
    pub after: Vec<Name>,
}

impl Default for PlaceInRecovery {
    fn default() -> Self {
        Self { priority: defaults::RECOVERY_PRIORITY, after: Vec::new() }
    }
}

/// How many datasets are restored at once.
pub(super) fn at_once(v: &mut SettingsReader<'_>, raw: &RawRecovery) -> usize {
    let Some(told) = &raw.at_once else { return defaults::RESTORES_AT_ONCE };
    let count = *told.get_ref();
    if (1..=MAX_RESTORES_AT_ONCE).contains(&count) {
        return count;
    }
    v.findings.add(
        told.span(),
        format!("at_once = {count} is not possible"),
        format!("use a number from 1 to {MAX_RESTORES_AT_ONCE}"),
    );
    defaults::RESTORES_AT_ONCE
}

/// The place of one dataset. Whether `after` names datasets is looked at by [`order`].
pub(super) fn place(v: &mut SettingsReader<'_>, raw: &RawPlaceInRecovery) -> PlaceInRecovery {
    PlaceInRecovery {
        priority: raw.priority.unwrap_or(defaults::RECOVERY_PRIORITY),
        after: raw.after.iter().filter_map(|text| name(v, text)).collect(),
    }
}

/// Refuses an order in which some dataset would wait for ever.
pub(super) fn order(v: &mut SettingsReader<'_>, datasets: &[Dataset]) {
    let names: BTreeSet<&Name> = datasets.iter().map(|dataset| &dataset.name).collect();
    for dataset in datasets {
        for other in dataset.recovery.after.iter().filter(|other| !names.contains(other)) {
            let problem = format!("dataset {} is to be restored after {other}, which is no [[dataset]]", dataset.name);
            v.findings.add_elsewhere(problem, "name datasets of this file in `after`");
        }
    }
    let mut restored: BTreeSet<&Name> = BTreeSet::new();
    loop {
        let waits = |dataset: &&Dataset| {
            !restored.contains(&dataset.name)
                && dataset.recovery.after.iter().any(|other| names.contains(other) && !restored.contains(other))
        };
        let waiting: Vec<&Name> = datasets.iter().filter(waits).map(|dataset| &dataset.name).collect();
        let before = restored.len();
        restored.extend(names.iter().filter(|name| !waiting.contains(name)));
        if restored.len() == names.len() {
            return;
        }
        if restored.len() == before {
            let waiting: Vec<&str> = waiting.iter().map(|name| name.as_str()).collect();
            let problem = format!("these datasets wait for each other in a recovery: {}", waiting.join(", "));
            v.findings.add_elsewhere(problem, "take one of the names out of `after`");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lifeboat_base::settings::Surroundings;

    use super::*;
    use crate::config::Config;

    fn config(recovery: &str, of: [&str; 3]) -> Result<Config, String> {
        let [a, b, c] = of;
        let dataset = |name: &str, recovery: &str| {
            format!(
                "[[dataset]]\nname = \"{name}\"\nhome_region = \"near\"\nsource = {{ kind = \"file\", path = \"/{name}\" }}\n\
                 [dataset.recovery]\n{recovery}\n"
            )
        };
        let text = format!(
            "host = \"drill1\"\n[keys]\ndirectory = \"/nonexistent/keys\"\n[recovery]\n{recovery}\n\
             [[replica]]\nname = \"far\"\nkind = \"directory\"\nregion = \"far\"\npath = \"/far\"\n{}{}{}",
            dataset("a", a),
            dataset("b", b),
            dataset("c", c)
        );
        Config::parse(&text, Path::new("lifeboat.toml"), &Surroundings::default())
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn the_order_is_read() -> Result<(), String> {
        let found = config("at_once = 3", ["", "priority = 1", "after = [\"a\", \"b\"]"])?;
        assert_eq!(found.recovery_at_once, 3);
        let places: Vec<_> = found.datasets.iter().map(|of| (of.recovery.priority, of.recovery.after.len())).collect();
        assert_eq!(places, [(defaults::RECOVERY_PRIORITY, 0), (1, 0), (defaults::RECOVERY_PRIORITY, 2)]);
        assert_eq!(config("", ["", "", ""])?.recovery_at_once, defaults::RESTORES_AT_ONCE);
        Ok(())
    }

    #[test]
    fn an_order_that_cannot_be_kept_is_refused() {
        for (recovery, of, said) in [
            ("at_once = 0", ["", "", ""], "at_once = 0 is not possible"),
            ("at_once = 5", ["", "", ""], "at_once = 5 is not possible"),
            ("", ["after = [\"x\"]", "", ""], "dataset a is to be restored after x, which is no [[dataset]]"),
            ("", ["after = [\"a\"]", "", ""], "wait for each other in a recovery: a"),
            ("", ["after = [\"c\"]", "after = [\"a\"]", "after = [\"b\"]"], "a recovery: a, b, c"),
            ("", ["prio = 1", "", ""], "unknown key `prio`"),
        ] {
            let refused = config(recovery, of).err().unwrap_or_default();
            assert!(refused.contains(said), "{recovery} {of:?}: {refused}");
        }
    }
}
