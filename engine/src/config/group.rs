//! Validates `[[group]]`: datasets that are captured at one moment, because they are one
//! application.
//!
//! The schedule of a group is that of all its members, which have none of their own: each
//! [`Dataset`] gets it, so that all that asks when a dataset is due finds the answer where it
//! always is.

use std::collections::BTreeSet;
use std::time::Duration;

use lifeboat_base::settings::{SettingsReader, Text, units};
use lifeboat_format::id::Name;
use lifeboat_format::manifest::MAX_GROUP_MEMBERS;
use toml::Spanned;

use super::dataset::schedule;
use super::fields::{name, time_zone};
use super::raw::{RawGroup, RawReference};
use super::{Dataset, Limits, defaults};
use crate::schedule::Schedule;

/// The longest time that members may wait for each other.
const MAX_MEMBER_WAIT: Duration = Duration::from_secs(3600);

/// One `[[group]]`.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// Its name, which no dataset has.
    pub name: Name,
    /// Its members, at least two, in the order in which their views are fixed.
    pub members: Vec<Name>,
    /// When all of them are backed up. `None`: only when somebody asks.
    pub schedule: Option<Schedule>,
    /// A member that is prepared waits so long for the others.
    pub wait: Duration,
    /// What a drill of the group looks for across its members.
    pub references: Vec<GroupReference>,
    /// When `lifeboat drill --due` drills it. `None`: never.
    pub drill_schedule: Option<Schedule>,
}

/// Values of one member that must be paths in another (`[[group.reference]]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupReference {
    /// Its name, for people and metrics.
    pub name: Name,
    /// The member that is asked.
    pub from: Name,
    /// The database of it. `None`: its only one.
    pub database: Option<String>,
    /// A query of one column.
    pub sql: String,
    /// The member whose snapshot holds the paths.
    pub to: Name,
    /// What is put before each value.
    pub prefix: String,
    /// So many values may lead nowhere.
    pub at_most: u64,
    /// So many values there must be.
    pub at_least: u64,
}

/// Validates all groups, and gives their members the schedule. Where this host backs nothing up,
/// nothing has to fit into its limits.
pub(super) fn groups(
    v: &mut SettingsReader<'_>,
    raw: &[Spanned<RawGroup>],
    datasets: &mut [Dataset],
    limits: &Limits,
    backs_up: bool,
) -> Vec<GroupConfig> {
    let mut taken = BTreeSet::new();
    let mut groups: Vec<GroupConfig> = Vec::new();
    for raw in raw {
        let Some(group) = group(v, raw.get_ref(), datasets, &mut taken) else { continue };
        if groups.iter().any(|other| other.name == group.name) {
            let problem = format!("two [[group]] are named `{}`", group.name);
            v.findings.add_elsewhere(problem, "give each a name of its own");
        }
        let members = group.members.len();
        if backs_up && members > limits.runs {
            let problem = format!(
                "group {} has {members} members, which run at once, and limits.runs is {}",
                group.name, limits.runs
            );
            let memory = members as u64 * (defaults::MIN_RUN_MEMORY >> 20);
            let remedy = format!("set runs = {members} in [limits], and memory = \"{memory}MiB\" or more there");
            v.findings.add_elsewhere(problem, remedy);
        }
        for dataset in datasets.iter_mut().filter(|dataset| group.members.contains(&dataset.name)) {
            dataset.schedule.clone_from(&group.schedule);
        }
        groups.push(group);
    }
    groups
}

fn group(
    v: &mut SettingsReader<'_>,
    raw: &RawGroup,
    datasets: &[Dataset],
    taken: &mut BTreeSet<Name>,
) -> Option<GroupConfig> {
    let of = name(v, &raw.name)?;
    if datasets.iter().any(|dataset| dataset.name == of) {
        v.findings.add(raw.name.span(), format!("`{of}` is the name of a [[dataset]], too"), "give the group another");
    }
    let mut members: Vec<Name> = Vec::new();
    for text in &raw.members {
        let Some(member) = name(v, text) else { continue };
        if members.contains(&member) {
            v.findings.add(text.span(), format!("member `{member}` is named twice"), "name it once");
            continue;
        }
        if !taken.insert(member.clone()) {
            let problem = format!("dataset `{member}` is a member of two groups");
            v.findings.add(text.span(), problem, "take it out of one, or make one group of both");
        }
        match datasets.iter().find(|dataset| dataset.name == member) {
            None => {
                let problem = format!("member `{member}` is no usable [[dataset]] of this file");
                v.findings.add(text.span(), problem, "add its [[dataset]], or take it out of `members`");
            }
            Some(dataset) => fits(v, text, dataset),
        }
        members.push(member);
    }
    if !(2..=MAX_GROUP_MEMBERS).contains(&raw.members.len()) {
        let problem = format!("group `{of}` has {} members", raw.members.len());
        v.findings.add(raw.name.span(), problem, format!("name 2 to {MAX_GROUP_MEMBERS} datasets in `members`"));
    }
    if let Some((slow, holder)) = waits_for_a_dump(&members, datasets) {
        let problem =
            format!("`{holder}` holds locks until its turn, and `{slow}` before it takes as long as its dump");
        let remedy = format!("name `{holder}` before `{slow}` in `members`");
        v.findings.add(raw.name.span(), problem, remedy);
    }
    let references = raw.reference.iter().filter_map(|reference| self::reference(v, reference, &members, datasets));
    let references: Vec<GroupReference> = references.collect();
    let mut names = BTreeSet::new();
    if let Some(twice) = references.iter().find(|reference| !names.insert(&reference.name)) {
        let problem = format!("two references of group `{of}` are named `{}`", twice.name);
        v.findings.add_elsewhere(problem, "give each a name of its own");
    }
    let wait = v.unit(raw.wait.as_ref(), units::duration).unwrap_or(defaults::MEMBER_WAIT);
    if wait.is_zero() || wait > MAX_MEMBER_WAIT {
        let span = raw.wait.as_ref().map_or(0..0, Spanned::span);
        v.findings.add(span, "members cannot wait for each other for this long", "use \"1s\" to \"1h\"");
    }
    let schedule = schedule(v, (&raw.schedule, &raw.time_zone, &raw.jitter), &raw.windows);
    let zone = time_zone(v, raw.drill.time_zone.as_ref());
    let drill_schedule = raw.drill.schedule.as_ref().and_then(|text| {
        let parsed = Schedule::parse(text.get_ref(), zone, Duration::ZERO);
        if let Err(error) = &parsed {
            v.findings.add(text.span(), error.chain(), error.hint_text().unwrap_or_default());
        }
        parsed.ok()
    });
    Some(GroupConfig { name: of, members, schedule, wait, references, drill_schedule })
}

/// Refuses a member that has a schedule of its own, or deputies.
fn fits(v: &mut SettingsReader<'_>, text: &Text, dataset: &Dataset) {
    let member = &dataset.name;
    if dataset.schedule.is_some() {
        let problem = format!("member `{member}` has a schedule of its own");
        v.findings.add(text.span(), problem, "its group decides when it runs: move `schedule` there");
    }
    if dataset.hosts.len() > 1 {
        let problem = format!("member `{member}` has deputies, which would lead without the rest of the group");
        v.findings.add(text.span(), problem, "leave `hosts` out of the members of a group");
    }
}

/// What an operator should know of `groups`, although they can be used.
pub(super) fn warnings(groups: &[GroupConfig], datasets: &[Dataset]) -> Vec<String> {
    let retention = |member: &Name| datasets.iter().find(|of| of.name == *member).map(|of| &of.retention);
    let differ = groups.iter().filter(|group| {
        let first = group.members.first().and_then(retention);
        group.members.iter().any(|member| retention(member) != first)
    });
    let warning = |group: &GroupConfig| {
        format!(
            "the members of group {} have different retention, so of older moments only some members are kept: give all the same [dataset.retention]",
            group.name
        )
    };
    differ.map(warning).collect()
}

/// A member whose view is fixed only when all of it is captured, and one behind it that fixes its
/// own at once, and waits with locks.
fn waits_for_a_dump<'m>(members: &'m [Name], datasets: &[Dataset]) -> Option<(&'m Name, &'m Name)> {
    let knows_moments = |member: &Name| {
        let dataset = datasets.iter().find(|dataset| dataset.name == *member);
        dataset.is_some_and(|dataset| dataset.source.knows_moments())
    };
    let slow = members.iter().position(|member| !knows_moments(member))?;
    let holder = members.iter().skip(slow).find(|member| knows_moments(member))?;
    Some((members.get(slow)?, holder))
}

fn reference(
    v: &mut SettingsReader<'_>,
    raw: &RawReference,
    members: &[Name],
    datasets: &[Dataset],
) -> Option<GroupReference> {
    let (of, from, to) = (name(v, &raw.name), name(v, &raw.from), name(v, &raw.to));
    let (of, from, to) = (of?, from?, to?);
    let place = |member: &Name| members.iter().position(|other| other == member);
    for (text, member) in [(&raw.from, &from), (&raw.to, &to)] {
        if place(member).is_none() {
            v.findings.add(text.span(), format!("`{member}` is no member of the group"), "name one of its members");
        }
    }
    if let (Some(first), Some(second)) = (place(&from), place(&to))
        && first >= second
    {
        let problem = format!("`{to}` is captured before `{from}`, so what came between would dangle");
        v.findings.add(raw.to.span(), problem, "name `from` before `to` in `members`");
    }
    let database = |member: &Name| datasets.iter().find(|of| of.name == *member).map(|of| of.source.database());
    if let Some(kind) = database(&from).filter(|from| !from.lists_values()) {
        let problem = format!("`{from}` is of kind {}, which no reference can ask", kind.kind());
        v.findings.add(raw.from.span(), problem, "name a member of kind postgres");
    }
    if let Some(kind) = database(&to).filter(|to| !to.is_tree()) {
        let problem = format!("`{to}` is of kind {}, which holds no paths", kind.kind());
        v.findings.add(raw.to.span(), problem, "name a member of kind files");
    }
    let sql = v.filled(&raw.sql)?;
    let prefix = raw.prefix.as_ref().map(|prefix| prefix.get_ref().clone()).unwrap_or_default();
    Some(GroupReference {
        name: of,
        from,
        database: raw.database.clone(),
        sql,
        to,
        prefix,
        at_most: raw.at_most,
        at_least: raw.at_least.unwrap_or(defaults::MIN_REFERENCES),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use lifeboat_base::settings::Surroundings;

    use super::*;
    use crate::config::Config;

    const POSTGRES: &str = "source = { kind = \"postgres\", socket = \"/var/run/postgresql\" }";
    const FILES: &str = "source = { kind = \"files\", path = \"/srv/uploads\" }";

    fn config(limits: &str, of_db: &str, groups: &str) -> Result<Config, String> {
        let dataset =
            |name: &str, rest: &str| format!("[[dataset]]\nname = \"{name}\"\nhome_region = \"near\"\n{rest}\n");
        let text = format!(
            "host = \"db1\"\n[limits]\n{limits}\n[[replica]]\nname = \"far\"\nkind = \"directory\"\nregion = \"far\"\npath = \"/far\"\n{}{}{}{groups}",
            dataset("shop-db", &format!("{of_db}\n{POSTGRES}")),
            dataset("shop-uploads", FILES),
            dataset("wiki", POSTGRES),
        );
        Config::parse(&text, Path::new("lifeboat.toml"), &Surroundings::default())
            .map_err(|error| error.message().to_owned())
    }

    const SHOP: &str =
        "[[group]]\nname = \"shop\"\nmembers = [\"shop-db\", \"shop-uploads\"]\nschedule = \"0 2 * * *\"\n";

    fn with_reference(keys: &str) -> String {
        format!("{SHOP}[[group.reference]]\nname = \"attachments\"\n{keys}\n")
    }

    #[test]
    fn a_group_gives_its_schedule_to_its_members() {
        let whole = with_reference(
            "from = \"shop-db\"\nsql = \"select path from attachments\"\nto = \"shop-uploads\"\nprefix = \"a/\"\nat_most = 3",
        ) + "[group.drill]\nschedule = \"@weekly\"\n";
        let found = config("", "", &whole).unwrap();
        let group = &found.groups[0];
        assert_eq!(group.members.iter().map(Name::as_str).collect::<Vec<_>>(), ["shop-db", "shop-uploads"]);
        assert_eq!((group.wait, group.drill_schedule.is_some()), (defaults::MEMBER_WAIT, true));
        let reference = &group.references[0];
        assert_eq!((reference.prefix.as_str(), reference.at_most, reference.at_least), ("a/", 3, 1));
        let schedules = found.datasets.iter().map(|of| of.schedule.as_ref().map(Schedule::expression));
        assert_eq!(schedules.collect::<Vec<_>>(), [Some("0 2 * * *"), Some("0 2 * * *"), None]);
        assert_eq!(found.group_of(&"shop-db".parse().unwrap()).map(|group| group.name.as_str()), Some("shop"));
        assert!(found.group_of(&"wiki".parse().unwrap()).is_none() && found.group(&group.name).is_some());
        assert_eq!(found.warnings, Vec::<String>::new());
    }

    #[test]
    fn members_that_are_kept_for_different_times_are_told() {
        let found = config("", "retention = { daily = 3 }", SHOP).unwrap();
        assert!(found.warnings.len() == 1 && found.warnings[0].contains("different retention"), "{:?}", found.warnings);
    }

    #[test]
    fn a_group_that_contradicts_itself_or_the_rest_is_refused() {
        let named = |name: &str, members: &str| format!("[[group]]\nname = \"{name}\"\nmembers = [{members}]\n");
        let both = "\"shop-db\", \"shop-uploads\"";
        let reference =
            |from: &str, to: &str| with_reference(&format!("from = \"{from}\"\nsql = \"select 1\"\nto = \"{to}\""));
        for (limits, of_db, groups, said) in [
            ("", "", named("g", "\"shop-uploads\", \"shop-db\""), "`shop-db` holds locks until its turn"),
            ("", "", named("g", "\"shop-db\""), "has 1 members"),
            ("", "", named("g", "\"shop-db\", \"shop-db\""), "is named twice"),
            ("", "", named("g", "\"shop-db\", \"x\""), "`x` is no usable [[dataset]]"),
            ("", "", named("wiki", both), "is the name of a [[dataset]], too"),
            ("", "", named("g", both) + &named("g", "\"wiki\", \"shop-db\""), "two [[group]] are named `g`"),
            ("", "", named("g", both) + &named("h", "\"wiki\", \"shop-db\""), "is a member of two groups"),
            ("", "schedule = \"@daily\"", named("g", both), "has a schedule of its own"),
            ("", "hosts = [\"db1\", \"db2\"]", named("g", both), "has deputies"),
            ("runs = 1", "", named("g", both), "has 2 members, which run at once, and limits.runs is 1"),
            ("", "", named("g", both) + "wait = \"2h\"\n", "cannot wait for each other for this long"),
            ("", "", named("g", both) + "windows = [{ from = \"01:00\", to = \"02:00\" }]\n", "without a schedule"),
            ("", "", reference("wiki", "shop-uploads"), "`wiki` is no member of the group"),
            ("", "", reference("shop-uploads", "shop-db"), "is captured before"),
            ("", "", reference("shop-uploads", "shop-db"), "of kind files, which no reference can ask"),
            ("", "", reference("shop-uploads", "shop-db"), "of kind postgres, which holds no paths"),
            ("", "", with_reference("from = \"shop-db\"\nsql = \"\"\nto = \"shop-uploads\""), "empty"),
        ] {
            let refused = config(limits, of_db, &groups).err().unwrap_or_default();
            assert!(refused.contains(said), "{groups}: {said} is not in {refused}");
        }
    }
}
