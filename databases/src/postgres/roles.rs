//! Makes the roles of a snapshot on a server, with what belongs to them.
//!
//! Each statement is written anew from what [`Globals`] understood. On a server that is not ours, a
//! role that exists keeps all that it has and gains nothing, neither by itself nor by becoming a
//! member of a new role. New roles that come to power, by themselves or by a membership, are told.
//! What the server refuses, and what was left out, is told.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Result, escape};

use super::belongings::{Belongings, belongings_of_roles};
use super::globals::{Globals, Membership, ParameterGrant, Role, Setting};
use super::server::Server;
use super::sql::{quoted, quoted_name, quoted_text, rows};
use super::steps::Step;

/// No more names are told in one warning.
const MAX_LISTED: usize = 20;
/// The first version whose memberships have the options `INHERIT` and `SET`.
const MEMBERSHIP_OPTIONS: u32 = 16;
/// The first version with rights on settings.
const PARAMETER_RIGHTS: u32 = 15;
/// Attributes that only a superuser can give.
const HIGH: [&str; 3] = ["SUPERUSER", "REPLICATION", "BYPASSRLS"];

/// Attributes by which a role that exists can do what others cannot.
const POWERFUL: [&str; 4] = ["SUPERUSER", "REPLICATION", "BYPASSRLS", "CREATEROLE"];
/// How the names of PostgreSQL's own roles begin.
const OF_SERVER: &str = "pg_";

/// The roles of a server: attributes as `pg_dumpall` names them, separated by blanks.
const ROLES: &str = "SELECT rolname, concat_ws(' ', CASE WHEN rolsuper THEN 'SUPERUSER' END, \
    CASE WHEN rolcreaterole THEN 'CREATEROLE' END, CASE WHEN rolcreatedb THEN 'CREATEDB' END, \
    CASE WHEN rolcanlogin THEN 'LOGIN' END, CASE WHEN rolreplication THEN 'REPLICATION' END, \
    CASE WHEN rolbypassrls THEN 'BYPASSRLS' END, CASE WHEN NOT rolinherit THEN 'NOINHERIT' END, \
    'CONNECTION LIMIT ' || rolconnlimit) FROM pg_roles";
const MEMBERSHIPS: &str = "SELECT r.rolname, m.rolname FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid \
    JOIN pg_roles m ON m.oid = a.member";

/// A list of names for people.
pub(crate) fn several<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let all: BTreeSet<&str> = names.into_iter().collect();
    let first: Vec<String> = all.iter().take(MAX_LISTED).map(|name| escape::line(name).into_owned()).collect();
    let more = all.len().saturating_sub(MAX_LISTED);
    if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) }
}

impl Server<'_> {
    /// Makes the roles that do not exist yet. Returns what an operator should know. On a server
    /// that is `ours` alone, roles that exist may gain memberships.
    ///
    /// # Errors
    /// A role cannot be made. Then none is.
    pub(crate) async fn restore_globals(&self, globals: &Globals, ours: bool) -> Result<Vec<String>> {
        let version: u32 = self.query("SHOW server_version_num").await?.trim().parse().unwrap_or_default();
        let existing: BTreeMap<String, String> = pairs(&self.query(ROLES).await?).into_iter().collect();
        let members: BTreeSet<(String, String)> =
            if ours { BTreeSet::new() } else { pairs(&self.query(MEMBERSHIPS).await?).into_iter().collect() };
        let own = self.query("SELECT current_user").await?;
        let alive = existing.keys().any(|name| *name != own && !name.starts_with(OF_SERVER));
        let mut warnings = Vec::new();
        if !ours {
            warnings.extend(kept(globals, &belongings_of_roles(self).await?));
        }
        let plan = Plan { existing: &existing, members: &members, major: version / 10_000, ours, alive };
        let (steps, mut anew) = plan.steps(globals, &mut warnings);
        let failures = self.run_steps(self.connection.maintenance_database(), &steps, "UTF8").await;
        let failures = failures.map_err(|error| error.within("cannot restore roles and other globals"))?;
        let granted_anew = |(what, _): &&(&str, &str)| what.ends_with(GRANTED_BY);
        let told: Vec<(bool, &str, &str)> = failures
            .iter()
            .filter_map(|failure| {
                Some((failure.mended, steps.get(failure.step)?.what.as_str(), failure.reason.as_str()))
            })
            .collect();
        let mended: Vec<(&str, &str)> = told.iter().filter(|told| told.0).map(|told| (told.1, told.2)).collect();
        let grants = mended.iter().filter(granted_anew);
        anew.extend(grants.map(|(what, _)| what.trim_end_matches(GRANTED_BY).to_owned()));
        if !anew.is_empty() {
            warnings.push(format!(
                "granted by another role than in the snapshot, whose grantor may not grant here: {}",
                several(anew.iter().map(String::as_str))
            ));
        }
        for (what, reason) in mended.iter().filter(|mended| !granted_anew(mended)) {
            warnings.push(format!("{what}: without {}, as the server refused: {reason}", HIGH.join(", ")));
        }
        let refused: Vec<String> =
            told.iter().filter(|told| !told.0).map(|(_, what, reason)| format!("{what} ({reason})")).collect();
        if !refused.is_empty() {
            warnings.push(format!("the server refused: {}", several(refused.iter().map(String::as_str))));
        }
        if globals.tablespaces {
            warnings.push("tablespaces were left out: everything is in the default one".to_owned());
        }
        warnings.extend(strange(globals));
        Ok(warnings)
    }
}

/// What of the roles that exist the snapshot says otherwise, besides attributes.
fn kept(globals: &Globals, here: &BTreeMap<String, Belongings>) -> Option<String> {
    let differing = globals.roles.iter().filter_map(|(name, role)| {
        let differing = here.get(name)?.differing(role);
        (!differing.is_empty()).then(|| format!("{name} ({})", differing.join("; ")))
    });
    let differing: Vec<String> = differing.collect();
    (!differing.is_empty()).then(|| {
        let differing = several(differing.iter().map(String::as_str));
        format!("of these roles, which exist and were kept as they are, the snapshot says otherwise: {differing}")
    })
}

/// What was not understood, for people.
pub(crate) fn strange(globals: &Globals) -> Option<String> {
    let told = several(globals.strange.iter().map(String::as_str));
    (!globals.strange.is_empty())
        .then(|| format!("the stream `globals` holds what pg_dumpall does not write; it was not executed: {told}"))
}

/// How the step ends that grants a membership and names the grantor.
const GRANTED_BY: &str = " as its grantor";

struct Plan<'a> {
    existing: &'a BTreeMap<String, String>,
    members: &'a BTreeSet<(String, String)>,
    major: u32,
    ours: bool,
    /// Whether there are roles besides PostgreSQL's own and the one that connects.
    alive: bool,
}

impl Plan<'_> {
    /// The steps, and the memberships among them whose grantor is not here.
    fn steps(&self, globals: &Globals, warnings: &mut Vec<String>) -> (Vec<Step>, Vec<String>) {
        let mut steps = Vec::new();
        let new: Vec<(&String, &Role)> =
            globals.roles.iter().filter(|(name, _)| !self.existing.contains_key(*name)).collect();
        steps.extend(new.iter().map(|(name, role)| create(name, role)));
        for (name, role) in &new {
            steps.extend(belongings(name, role));
        }
        if !self.ours {
            let changed = globals
                .roles
                .iter()
                .filter(|(name, role)| self.existing.get(*name).is_some_and(|has| *has != attributes(role).join(" ")));
            let changed: Vec<String> = changed
                .map(|(name, role)| format!("{name} (in the snapshot: {})", attributes(role).join(" ")))
                .collect();
            if !changed.is_empty() {
                let changed = several(changed.iter().map(String::as_str));
                warnings.push(format!("these roles exist with other attributes, and were kept as they are: {changed}"));
            }
            let high: Vec<&str> = new
                .iter()
                .filter(|(_, role)| HIGH.iter().any(|high| role.attributes.contains(high)))
                .map(|(name, _)| name.as_str())
                .collect();
            if !high.is_empty() {
                warnings.push(format!("new roles with SUPERUSER, REPLICATION or BYPASSRLS: {}", several(high)));
            }
        }
        let exists = |name: &String| self.existing.contains_key(name);
        let (mut kept, mut anew) = (Vec::new(), Vec::new());
        for membership in &globals.memberships {
            // It would give a role more rights than it has. A new role may have any.
            if !self.ours && exists(&membership.member) {
                if !self.members.contains(&(membership.role.clone(), membership.member.clone())) {
                    kept.push(format!("{} to {}", membership.role, membership.member));
                }
                continue;
            }
            let grantor = membership.grantor.as_ref();
            let known = grantor.filter(|grantor| exists(grantor) || globals.roles.contains_key(*grantor));
            let step = self.grant(membership, known);
            if grantor.is_some() && known.is_none() {
                anew.push(step.what.clone());
            }
            steps.push(step);
        }
        if !kept.is_empty() {
            let kept = several(kept.iter().map(String::as_str));
            warnings.push(format!("not granted, as the member exists and keeps the rights that it has: {kept}"));
        }
        let raised = if self.ours { Vec::new() } else { self.raised(globals) };
        if !raised.is_empty() {
            let raised = several(raised.iter().map(String::as_str));
            warnings.push(format!("new roles that may act as a powerful role: {raised}"));
        }
        // A grant to all roles is one to those that exist.
        let gains = |grant: &&ParameterGrant| !self.ours && grant.role.as_ref().map_or(self.alive, exists);
        let (kept, parameters): (Vec<&ParameterGrant>, Vec<_>) = globals.parameters.iter().partition(gains);
        if !kept.is_empty() {
            let kept: Vec<String> =
                kept.iter().map(|grant| format!("{} to {}", grant.parameter, grantee(grant))).collect();
            let kept = several(kept.iter().map(String::as_str));
            warnings.push(format!("rights on parameters that would go to roles that exist were left out: {kept}"));
        }
        if self.major >= PARAMETER_RIGHTS {
            steps.extend(parameters.into_iter().map(parameter));
        }
        (steps, anew)
    }

    /// New roles that are members of a powerful role, be it by way of others, each with that role.
    fn raised(&self, globals: &Globals) -> Vec<String> {
        let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let new = globals.memberships.iter().filter(|membership| !self.existing.contains_key(&membership.member));
        let new = new.map(|membership| (membership.role.as_str(), membership.member.as_str()));
        let here = self.members.iter().map(|(role, member)| (role.as_str(), member.as_str()));
        for (role, member) in new.chain(here) {
            members.entry(role).or_default().push(member);
        }
        let here = self.existing.iter().filter(|(name, attributes)| {
            name.starts_with(OF_SERVER) || attributes.split(' ').any(|word| POWERFUL.contains(&word))
        });
        let new = globals.roles.iter().filter(|(name, role)| {
            !self.existing.contains_key(*name) && HIGH.iter().any(|high| role.attributes.contains(high))
        });
        let powerful = here.map(|(name, _)| name.as_str()).chain(new.map(|(name, _)| name.as_str()));
        let mut left: Vec<(&str, &str)> = powerful.map(|name| (name, name)).collect();
        let mut reached: BTreeMap<&str, &str> = left.iter().copied().collect();
        while let Some((role, as_whom)) = left.pop() {
            for member in members.get(role).into_iter().flatten().copied() {
                if !reached.contains_key(member) {
                    reached.insert(member, as_whom);
                    left.push((member, as_whom));
                }
            }
        }
        let raised = reached.iter().filter(|(name, as_whom)| name != as_whom && !self.existing.contains_key(**name));
        raised.map(|(name, as_whom)| format!("{name} (as {as_whom})")).collect()
    }

    fn grant(&self, membership: &Membership, grantor: Option<&String>) -> Step {
        let Membership { role, member, admin, inherit, set, .. } = membership;
        let mut options = Vec::new();
        if *admin {
            options.push("ADMIN OPTION".to_owned());
        }
        if self.major >= MEMBERSHIP_OPTIONS {
            let word = |value: bool| if value { "TRUE" } else { "FALSE" };
            options.extend(inherit.map(|inherit| format!("INHERIT {}", word(inherit))));
            options.extend(set.map(|set| format!("SET {}", word(set))));
        }
        let options = if options.is_empty() { String::new() } else { format!(" WITH {}", options.join(", ")) };
        let sql = format!("GRANT {} TO {}{options}", quoted(role), quoted(member));
        let what = format!("role {role} to {member}");
        match grantor {
            Some(grantor) => Step {
                what: format!("{what}{GRANTED_BY}"),
                sql: format!("{sql} GRANTED BY {}", quoted(grantor)).into(),
                otherwise: Some(sql.into()),
                needed: false,
            },
            None => Step::new(what, sql),
        }
    }
}

/// Attributes of a role as [`ROLES`] writes them.
fn attributes(role: &Role) -> Vec<String> {
    let order = ["SUPERUSER", "CREATEROLE", "CREATEDB", "LOGIN", "REPLICATION", "BYPASSRLS"];
    let given = order.iter().filter(|word| role.attributes.contains(*word)).map(|word| (*word).to_owned());
    let no_inherit = role.no_inherit.then(|| "NOINHERIT".to_owned());
    let limit = format!("CONNECTION LIMIT {}", role.connection_limit.unwrap_or(-1));
    given.chain(no_inherit).chain([limit]).collect()
}

fn create(name: &str, role: &Role) -> Step {
    let sql = |words: Vec<String>| {
        let mut sql = format!("CREATE ROLE {} WITH {}", quoted(name), words.join(" ")).into_bytes();
        if let Some(password) = &role.password {
            sql.extend(b" PASSWORD ");
            sql.extend(quoted_text(password.as_bytes()));
        }
        if let Some(until) = &role.valid_until {
            sql.extend(b" VALID UNTIL ");
            sql.extend(quoted_text(until.as_bytes()));
        }
        sql
    };
    let low = |word: &String| !HIGH.contains(&word.as_str());
    let otherwise = HIGH.iter().any(|high| role.attributes.contains(high));
    Step {
        what: format!("role {name}"),
        sql: sql(attributes(role)),
        otherwise: otherwise.then(|| sql(attributes(role).into_iter().filter(low).collect())),
        needed: true,
    }
}

/// `SET "name" TO 'value'`
pub(crate) fn set(setting: &Setting) -> Vec<u8> {
    let values: Vec<Vec<u8>> = setting.values.iter().map(|value| quoted_text(value)).collect();
    [&b"SET "[..], &quoted_name(&setting.name), b" TO ", &values.join(&b", "[..])].concat()
}

fn belongings(name: &str, role: &Role) -> Vec<Step> {
    let mut steps = Vec::new();
    for setting in &role.settings {
        let what = format!("setting {} of role {name}", String::from_utf8_lossy(&setting.name));
        steps.push(Step::new(what, [format!("ALTER ROLE {} ", quoted(name)).as_bytes(), &set(setting)].concat()));
    }
    if let Some(comment) = &role.comment {
        let sql =
            [format!("COMMENT ON ROLE {} IS ", quoted(name)).as_bytes(), &quoted_text(comment.as_bytes())].concat();
        steps.push(Step::new(format!("comment on role {name}"), sql));
    }
    for (provider, label) in &role.labels {
        let sql = format!("SECURITY LABEL FOR {} ON ROLE {} IS ", quoted(provider), quoted(name));
        steps.push(Step::new(
            format!("security label of role {name}"),
            [sql.as_bytes(), &quoted_text(label.as_bytes())].concat(),
        ));
    }
    steps
}

fn parameter(grant: &ParameterGrant) -> Step {
    let rights = [(grant.set, "SET"), (grant.alter_system, "ALTER SYSTEM")];
    let rights: Vec<&str> = rights.iter().filter(|(given, _)| *given).map(|(_, right)| *right).collect();
    let option = if grant.grant_option { " WITH GRANT OPTION" } else { "" };
    let role = grant.role.as_deref().map_or_else(|| grantee(grant).to_owned(), quoted);
    let parameter = quoted(&grant.parameter);
    let sql = format!("GRANT {} ON PARAMETER {parameter} TO {role}{option}", rights.join(", "));
    Step::new(format!("rights on parameter {} for role {}", grant.parameter, grantee(grant)), sql)
}

/// To whom a right is granted, for people.
fn grantee(grant: &ParameterGrant) -> &str {
    grant.role.as_deref().unwrap_or("PUBLIC")
}

fn pairs(answer: &str) -> Vec<(String, String)> {
    let pair = |row: &String| row.split_once('\u{1f}').map(|(first, second)| (first.to_owned(), second.to_owned()));
    rows(answer).iter().filter_map(pair).collect()
}
