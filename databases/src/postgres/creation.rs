//! How a database is made: by which options, and what belongs to it as a whole, such as its owner,
//! grants and settings.
//!
//! All of it is read from the archive's list of contents as data, and new statements are made from
//! it. So a database can be made under any name, and no statement of the archive runs outside the
//! database that it is of. Tablespaces are left out.

use std::collections::BTreeSet;

use lifeboat_base::Result;

use super::contents::Contents;
use super::globals::{Setting, setting};
use super::refusals::{OWNER_OF, Refusals};
use super::roles::set;
use super::server::Server;
use super::sql::{literal, quoted, quoted_name, quoted_text};
use super::steps::{Step, StepFailure};
use super::tokens::{Reading, Statements};

/// Options of `CREATE DATABASE` whose value is a text.
const TEXT_OPTIONS: [&str; 8] =
    ["ENCODING", "LOCALE", "LC_COLLATE", "LC_CTYPE", "ICU_LOCALE", "ICU_RULES", "BUILTIN_LOCALE", "COLLATION_VERSION"];
/// Values of the option `LOCALE_PROVIDER`.
const PROVIDERS: [&str; 3] = ["libc", "icu", "builtin"];
/// Rights on a database.
const RIGHTS: [&str; 6] = ["ALL", "CREATE", "CONNECT", "TEMPORARY", "TEMP", "PRIVILEGES"];
/// The comment of a database that is being loaded begins with this.
pub(crate) const LOADING_MARK: &str = "Lifeboat is loading this database";

/// Settings that would take the guard away. They are given last.
const LATE_SETTINGS: [&str; 3] = ["event_triggers", "lo_compat_privileges", "session_replication_role"];
/// What the server gives everybody on a new database.
const USUAL_RIGHTS: &str = "CONNECT, TEMPORARY";

/// How a database is made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Creation {
    /// As they follow `CREATE DATABASE … WITH TEMPLATE = template0`.
    options: String,
    pub(crate) owner: Option<Vec<u8>>,
    properties: Vec<Property>,
    encoding: String,
    /// Rights whose grantor is lacking.
    anew: Vec<String>,
    /// Statements that are not understood, by kind.
    pub(crate) strange: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Property {
    Set(Setting),
    RoleSet(Vec<u8>, Setting),
    ConnectionLimit(i64),
    Template(bool),
    Comment(Vec<u8>),
    Label { provider: Vec<u8>, label: Vec<u8> },
    Right { grants: bool, rights: Vec<&'static str>, role: Option<Vec<u8>>, option: bool, grantor: Option<Vec<u8>> },
}

impl Creation {
    /// What an archive says of its database.
    pub(crate) fn of(contents: &Contents) -> Self {
        let mut creation = Self { encoding: contents.encoding(), ..Self::default() };
        for entry in contents.of_database() {
            if contents.get(&entry.kind) == b"DATABASE" {
                creation.owner = Some(contents.get(&entry.owner).to_vec()).filter(|owner| !owner.is_empty());
            }
            creation.take(contents.get(&entry.definition));
        }
        creation
    }

    fn take(&mut self, text: &[u8]) {
        let mut grantor = None;
        for statement in Statements::new(text) {
            let taken = statement.tokens.as_ref().and_then(|tokens| self.statement(Reading(tokens), &mut grantor));
            if taken.is_none() {
                self.strange.push(statement.kind());
            }
        }
    }

    fn statement(&mut self, mut reading: Reading<'_>, grantor: &mut Option<Vec<u8>>) -> Option<()> {
        let property = if reading.words(&["CREATE", "DATABASE"]) {
            reading.name()?;
            self.options = options(reading)?;
            return Some(());
        } else if reading.words(&["SET", "SESSION", "AUTHORIZATION"]) {
            *grantor = Some(reading.role()?.to_vec());
            return reading.end();
        } else if reading.words(&["RESET", "SESSION", "AUTHORIZATION"]) {
            *grantor = None;
            return reading.end();
        } else if reading.words(&["ALTER", "DATABASE"]) {
            reading.name()?;
            if reading.words(&["CONNECTION", "LIMIT"]) {
                reading.mark(b'=');
                Property::ConnectionLimit(reading.number()?)
            } else if reading.words(&["IS_TEMPLATE"]) {
                reading.mark(b'=');
                Property::Template(reading.keyword()? == "true")
            } else {
                Property::Set(setting(&mut reading)?)
            }
        } else if reading.words(&["ALTER", "ROLE"]) {
            let role = reading.role()?.to_vec();
            reading.must(&["IN", "DATABASE"])?;
            reading.name()?;
            Property::RoleSet(role, setting(&mut reading)?)
        } else if reading.words(&["COMMENT", "ON", "DATABASE"]) {
            reading.name()?;
            reading.must(&["IS"])?;
            Property::Comment(reading.text()?.to_vec())
        } else if reading.words(&["SECURITY", "LABEL", "FOR"]) {
            let provider = reading.name()?.to_vec();
            reading.must(&["ON", "DATABASE"])?;
            reading.name()?;
            reading.must(&["IS"])?;
            Property::Label { provider, label: reading.text()?.to_vec() }
        } else {
            right(&mut reading, grantor.clone())?
        };
        reading.end()?;
        self.properties.push(property);
        Some(())
    }

    /// Makes the database under the name `place`.
    ///
    /// # Errors
    /// The server cannot make it. Then a database of that name is not ours.
    pub(crate) async fn make(&self, server: &Server<'_>, place: &str) -> Result<()> {
        let create = format!("CREATE DATABASE {} WITH TEMPLATE = template0{}", quoted(place), self.options);
        server.finish_in(server.outside(place), &create).await.map(drop)
    }

    /// Gives the new database its settings, and marks it as being loaded. Returns what the server
    /// refused.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub(crate) async fn begin(&self, server: &Server<'_>, place: &str) -> Result<Vec<String>> {
        let mark = format!("COMMENT ON DATABASE {} IS {}", quoted(place), literal(LOADING_MARK));
        let mut steps = vec![Step::new("mark of an unfinished restore".to_owned(), mark)];
        let early = |property: &&Property| property.is_setting() == Some(false);
        steps.extend(self.properties.iter().filter(early).map(|property| property.step(place)));
        self.run(server, place, &steps).await
    }

    /// Leaves out what is of roles that are lacking. A grant of such a role is another's.
    pub(crate) fn leave_out(&mut self, mut lacks: impl FnMut(&[u8]) -> bool) {
        self.owner = self.owner.take().filter(|owner| !lacks(owner));
        let granted_to = |property: &Property| match property {
            Property::Right { role, .. } => role.clone(),
            _ => None,
        };
        self.properties.retain(|property| !granted_to(property).is_some_and(|role| lacks(&role)));
        for property in &mut self.properties {
            if let Property::Right { grantor, .. } = property
                && grantor.as_ref().is_some_and(|grantor| lacks(grantor))
            {
                *grantor = None;
                self.anew.push(property.step("").what);
            }
        }
    }

    /// Gives the loaded database what else belongs to it. If it was `shut`, everybody may come in
    /// then, as far as the snapshot says so. Returns what the server refused; of owner and rights,
    /// it tells `refusals`.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub(crate) async fn complete(
        &self,
        server: &Server<'_>,
        place: &str,
        shut: bool,
        refusals: &mut Refusals,
    ) -> Result<Vec<String>> {
        let unmark = format!("COMMENT ON DATABASE {} IS NULL", quoted(place));
        let (mut steps, mut rights) = (vec![Step::new("mark of an unfinished restore".to_owned(), unmark)], Vec::new());
        if let Some(owner) = &self.owner {
            let sql = [&alter(place)[..], b"OWNER TO ", &quoted_name(owner)].concat();
            rights.push(Step::new(format!("{OWNER_OF}the database"), sql));
        }
        if shut {
            let open = format!("GRANT {USUAL_RIGHTS} ON DATABASE {} TO PUBLIC", quoted(place));
            rights.push(Step::new("rights on the database for PUBLIC".to_owned(), open));
        }
        steps.extend(self.late_settings(place));
        for property in &self.properties {
            match property {
                Property::Set(_) | Property::RoleSet(..) => {}
                Property::Right { .. } => rights.push(property.step(place)),
                _ => steps.push(property.step(place)),
            }
        }
        let refused = self.run(server, place, &steps).await?;
        refusals.anew.extend(self.anew.iter().cloned());
        refusals.take(&rights, server.run_all(server.outside(place), &rights, &self.encoding).await?);
        Ok(refused)
    }

    /// Gives the settings of whoever has a late one anew, all of them: a dump tells their order.
    fn late_settings(&self, place: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        let late = self.properties.iter().filter(|property| property.is_setting() == Some(true));
        for whose in late.map(Property::role_of_setting).collect::<BTreeSet<_>>() {
            let all = self.properties.iter().filter(|property| property.is_setting().is_some());
            let all = all.filter(|property| property.role_of_setting() == whose);
            let reset = match whose {
                None => [&alter(place)[..], b"RESET ALL"].concat(),
                Some(role) => {
                    let within = format!(" IN DATABASE {} RESET ALL", quoted(place));
                    [b"ALTER ROLE ", &quoted_name(role)[..], within.as_bytes()].concat()
                }
            };
            steps.push(Step::new("settings of the database".to_owned(), reset));
            steps.extend(all.map(|property| property.step(place)));
        }
        steps
    }

    async fn run(&self, server: &Server<'_>, place: &str, steps: &[Step]) -> Result<Vec<String>> {
        let failures = server.run_steps(server.outside(place), steps, &self.encoding).await?;
        let told = |failure: &StepFailure| Some(format!("{} ({})", steps.get(failure.step)?.what, failure.reason));
        Ok(failures.iter().filter(|failure| !failure.mended).filter_map(told).collect())
    }
}

fn alter(place: &str) -> Vec<u8> {
    format!("ALTER DATABASE {} ", quoted(place)).into_bytes()
}

fn options(mut reading: Reading<'_>) -> Option<String> {
    let mut options = String::new();
    reading.words(&["WITH"]);
    while reading.end().is_none() {
        let option = reading.keyword()?;
        reading.mark(b'=').then_some(())?;
        match option {
            "TEMPLATE" | "TABLESPACE" => drop(reading.name()?),
            "LOCALE_PROVIDER" => {
                let provider = reading.keyword()?;
                let provider = PROVIDERS.iter().find(|known| **known == provider)?;
                options.push_str(&format!(" LOCALE_PROVIDER = {provider}"));
            }
            _ => {
                let option = TEXT_OPTIONS.iter().find(|known| **known == option)?;
                let value = String::from_utf8(quoted_text(reading.text()?)).ok()?;
                options.push_str(&format!(" {option} = {value}"));
            }
        }
    }
    Some(options)
}

/// `GRANT rights ON DATABASE name TO role [WITH GRANT OPTION]`, or `REVOKE … FROM role`
fn right(reading: &mut Reading<'_>, grantor: Option<Vec<u8>>) -> Option<Property> {
    let verb = reading.keyword()?;
    let mut option = verb == "REVOKE" && reading.words(&["GRANT", "OPTION", "FOR"]);
    let mut rights = Vec::new();
    while !reading.words(&["ON", "DATABASE"]) {
        let right = reading.keyword()?;
        rights.push(*RIGHTS.iter().find(|known| **known == right)?);
        reading.mark(b',');
    }
    reading.name()?;
    let grants = match verb {
        "GRANT" => reading.words(&["TO"]).then_some(true)?,
        "REVOKE" => reading.words(&["FROM"]).then_some(false)?,
        _ => return None,
    };
    let role = if reading.words(&["PUBLIC"]) { None } else { Some(reading.role()?.to_vec()) };
    option |= grants && reading.words(&["WITH", "GRANT", "OPTION"]);
    Some(Property::Right { grants, rights, role, option, grantor })
}

impl Property {
    /// Whether it is a setting, and then whether it is a [late](LATE_SETTINGS) one.
    fn is_setting(&self) -> Option<bool> {
        let (Self::Set(setting) | Self::RoleSet(_, setting)) = self else { return None };
        Some(LATE_SETTINGS.iter().any(|late| setting.name.eq_ignore_ascii_case(late.as_bytes())))
    }

    /// The role that a setting is for, if not for all.
    fn role_of_setting(&self) -> Option<&[u8]> {
        if let Self::RoleSet(role, _) = self { Some(role) } else { None }
    }

    fn step(&self, place: &str) -> Step {
        let database = quoted(place);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self {
            Self::Set(setting) => {
                let what = format!("setting {} of the database", text(&setting.name));
                Step::new(what, [alter(place), set(setting)].concat())
            }
            Self::RoleSet(role, setting) => {
                let what = format!("setting {} of role {} in the database", text(&setting.name), text(role));
                let within = format!(" IN DATABASE {database} ");
                let sql = [b"ALTER ROLE ", &quoted_name(role)[..], within.as_bytes(), &set(setting)].concat();
                Step::new(what, sql)
            }
            Self::ConnectionLimit(limit) => Step::new(
                "connection limit of the database".to_owned(),
                [&alter(place)[..], format!("CONNECTION LIMIT {limit}").as_bytes()].concat(),
            ),
            Self::Template(is) => Step::new(
                "template flag of the database".to_owned(),
                [&alter(place)[..], format!("IS_TEMPLATE {is}").as_bytes()].concat(),
            ),
            Self::Comment(comment) => Step::new(
                "comment on the database".to_owned(),
                [format!("COMMENT ON DATABASE {database} IS ").as_bytes(), &quoted_text(comment)].concat(),
            ),
            Self::Label { provider, label } => {
                let on = format!(" ON DATABASE {database} IS ");
                let sql = [b"SECURITY LABEL FOR ", &quoted_name(provider)[..], on.as_bytes(), &quoted_text(label)];
                Step::new("security label of the database".to_owned(), sql.concat())
            }
            Self::Right { grants, rights, role, option, grantor } => {
                let name = role.as_deref().map_or_else(|| b"PUBLIC".to_vec(), quoted_name);
                let (begin, end) = match (grants, option) {
                    (true, true) => ("GRANT", " WITH GRANT OPTION"),
                    (true, false) => ("GRANT", ""),
                    (false, true) => ("REVOKE GRANT OPTION FOR", ""),
                    (false, false) => ("REVOKE", ""),
                };
                let to = if *grants { "TO" } else { "FROM" };
                let head = format!("{begin} {} ON DATABASE {database} {to} ", rights.join(", "));
                let head = head.replace("ALL, PRIVILEGES", "ALL");
                let sql = [head.as_bytes(), &name, end.as_bytes()].concat();
                let who = role.as_deref().map_or_else(|| "PUBLIC".to_owned(), text);
                let mut step = Step::new(format!("rights on the database for {who}"), sql.clone());
                if let Some(grantor) = grantor {
                    let session = [b"SET SESSION AUTHORIZATION ", &quoted_name(grantor)[..], b"; "].concat();
                    step.sql = [&session, &sql[..], b"; RESET SESSION AUTHORIZATION"].concat();
                    step.otherwise = Some(sql);
                }
                step
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn taken(text: &str) -> Creation {
        let mut creation = Creation::default();
        creation.take(text.as_bytes());
        creation
    }

    fn sql(text: &str) -> Vec<String> {
        let creation = taken(text);
        assert_eq!(creation.strange, Vec::<String>::new());
        let steps = creation.properties.iter().map(|property| property.step("new"));
        steps.map(|step| String::from_utf8(step.sql).unwrap()).collect()
    }

    #[test]
    fn what_pg_dump_writes_is_understood_and_becomes_the_same_of_another_name() {
        let created = taken(
            "CREATE DATABASE shop WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C.UTF-8' TABLESPACE = ts;\n\n",
        );
        assert_eq!(created.options, " ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C.UTF-8'");
        assert_eq!(
            sql(
                "ALTER DATABASE shop SET \"TimeZone\" TO 'Asia/Tokyo';\nALTER ROLE \"b c\" IN DATABASE shop SET x TO 'a', 'b''';\n\
                 ALTER DATABASE shop CONNECTION LIMIT = 5;\nALTER DATABASE shop IS_TEMPLATE = true;\n\
                 COMMENT ON DATABASE shop IS 'it''s';\nREVOKE CONNECT,TEMPORARY ON DATABASE shop FROM PUBLIC;\n\
                 GRANT ALL ON DATABASE shop TO joe WITH GRANT OPTION;\nSET SESSION AUTHORIZATION joe;\n\
                 GRANT CONNECT ON DATABASE shop TO ann;\nRESET SESSION AUTHORIZATION;\n"
            ),
            [
                "ALTER DATABASE \"new\" SET \"TimeZone\" TO 'Asia/Tokyo'",
                "ALTER ROLE \"b c\" IN DATABASE \"new\" SET \"x\" TO 'a', 'b'''",
                "ALTER DATABASE \"new\" CONNECTION LIMIT 5",
                "ALTER DATABASE \"new\" IS_TEMPLATE true",
                "COMMENT ON DATABASE \"new\" IS 'it''s'",
                "REVOKE CONNECT, TEMPORARY ON DATABASE \"new\" FROM PUBLIC",
                "GRANT ALL ON DATABASE \"new\" TO \"joe\" WITH GRANT OPTION",
                "SET SESSION AUTHORIZATION \"joe\"; GRANT CONNECT ON DATABASE \"new\" TO \"ann\"; RESET SESSION AUTHORIZATION",
            ]
        );
    }

    #[test]
    fn other_statements_are_never_run() {
        for strange in [
            "CREATE DATABASE a WITH OWNER = b;",
            "CREATE DATABASE a ENCODING = UTF8;",
            "ALTER DATABASE a SET x TO DEFAULT;",
            "ALTER ROLE postgres SET x TO 'y';",
            "GRANT SELECT ON DATABASE a TO b;",
            "GRANT ALL ON TABLE a TO b;",
            "GRANT ALL ON DATABASE a TO b GRANTED BY c;",
            "DO $$ x $$;",
            "DROP DATABASE a;",
        ] {
            let creation = taken(strange);
            assert_eq!((creation.strange.len(), creation.properties.len()), (1, 0), "{strange}");
        }
    }
}
