//! What could not be loaded, as `pg_restore` tells it, with a class and a hint for each cause.

use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_base::{Error, escape};

use super::contents::Contents;
use crate::wanted::LoadFailure;

/// No more failures are listed.
const MAX_FAILURES: usize = 500;
/// No more is kept of a line.
const MAX_TOLD_LINE_BYTES: usize = 2000;
/// No more failures are told in the message of an error.
const MAX_TOLD: usize = 50;
/// How a line of `pg_restore` begins that names the entry at work.
const ENTRY_MARK: &str = "pg_restore: from TOC entry ";
const ERROR_MARK: &str = "pg_restore: error: ";
/// The last line of a `pg_restore` that went on to the end.
const WENT_ON_MARK: &str = "pg_restore: warning: errors ignored on restore: ";
/// How a line of its own begins, and not one of the server's.
const TOOL_MARK: &[u8] = b"pg_restore: ";
/// How such a line begins if it does not tell of progress.
const TELLING_MARKS: [&[u8]; 3] = [b"pg_restore: error: ", b"pg_restore: warning: ", b"pg_restore: hint: "];
/// What stands before the server's own words.
const SERVER_MARK: &str = "ERROR:  ";

/// What could not be loaded so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Failures(Arc<Mutex<Vec<LoadFailure>>>);

impl Failures {
    /// Takes what was found.
    pub(crate) fn take(&self) -> Vec<LoadFailure> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds one, unless there are too many, or the same was told before.
    pub(crate) fn add(&self, failure: LoadFailure) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_FAILURES && !all.contains(&failure) {
            all.push(failure);
        }
    }

    /// Whether this object is among them.
    pub(crate) fn has(&self, object: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|failure| failure.object == object)
    }

    /// Whether these are rights on, or a comment on, an object that is among them.
    fn has_broken(&self, object: &str) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |failure: &LoadFailure| belongs_to(object, &failure.object);
        all.iter().any(|failure| failure.class == "self_reference" && of(failure))
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn after(&self, count: usize) -> Option<LoadFailure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(count).cloned()
    }
}

/// Listens to the standard error of one `pg_restore`.
pub(crate) struct Listener {
    failures: Failures,
    database: String,
    contents: Option<Arc<Contents>>,
    line: Vec<u8>,
    object: String,
    went_on: Arc<Mutex<bool>>,
}

/// What a [`Listener`] heard.
pub(crate) struct Heard {
    failures: Failures,
    before: usize,
    went_on: Arc<Mutex<bool>>,
}

impl Heard {
    /// Whether the tool went on after errors, up to the end.
    pub(crate) fn went_on(&self) -> bool {
        *self.went_on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tool's error, with what it failed at and what to do about that.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match self.failures.after(self.before) {
            Some(first) => match hint(&first) {
                Some(hint) => error.within(format!("{} cannot be loaded", first.object)).hint(hint),
                None => error.within(format!("{} cannot be loaded", first.object)),
            },
            None => error,
        }
    }
}

impl Listener {
    /// Listens while something of `database` is loaded. `contents` tells the names of entries.
    pub(crate) fn new(failures: &Failures, database: &str, contents: Option<Arc<Contents>>) -> (Self, Heard) {
        let went_on = Arc::new(Mutex::new(false));
        let heard = Heard { failures: failures.clone(), before: failures.count(), went_on: went_on.clone() };
        let (failures, database) = (failures.clone(), database.to_owned());
        (Self { failures, database, contents, line: Vec::new(), object: String::new(), went_on }, heard)
    }

    /// Hears the next piece. Returns the lines in it that tell of no progress.
    pub(crate) fn hear(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut telling = Vec::new();
        for byte in piece {
            if *byte == b'\n' {
                self.end_of_line();
                if !self.line.starts_with(TOOL_MARK) || TELLING_MARKS.iter().any(|mark| self.line.starts_with(mark)) {
                    telling.extend_from_slice(&self.line);
                    telling.push(b'\n');
                }
                self.line.clear();
            } else if self.line.len() < MAX_TOLD_LINE_BYTES {
                self.line.push(*byte);
            }
        }
        telling
    }

    fn end_of_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        if let Some(entry) = line.strip_prefix(ENTRY_MARK) {
            self.object = self.name(entry);
        } else if line.starts_with(WENT_ON_MARK) {
            *self.went_on.lock().unwrap_or_else(PoisonError::into_inner) = true;
        } else if let Some(error) = line.strip_prefix(ERROR_MARK) {
            let reason = error.split_once(SERVER_MARK).map_or(error, |(_, reason)| reason);
            let (object, reason) = (escape::line(&self.object).into_owned(), escape::line(reason).into_owned());
            let class = if self.failures.has_broken(&object) { "consequence" } else { classify(&object, &reason) };
            let class = class.to_owned();
            self.failures.add(LoadFailure { database: self.database.clone(), object, class, reason });
        }
    }

    /// The entry of a line such as `214; 1259 16386 VIEW one owner`.
    fn name(&self, entry: &str) -> String {
        let id = entry.split(';').next().and_then(|id| id.parse().ok());
        let known = self.contents.as_ref().zip(id).and_then(|(contents, id)| contents.name_of(id));
        known.unwrap_or_else(|| {
            let words = entry.splitn(4, ' ').nth(3).unwrap_or(entry);
            words.rsplit_once(' ').map_or(words, |(name, _owner)| name).to_owned()
        })
    }
}

/// Whether `object`, such as `ACL public.TABLE one`, belongs to the view `whole`, such as
/// `VIEW public.one`.
fn belongs_to(object: &str, whole: &str) -> bool {
    let kinds = ["ACL ", "COMMENT "];
    let of = kinds.iter().find_map(|kind| object.strip_prefix(kind)).and_then(|of| of.split_once('.'));
    let Some((schema, of)) = of else { return false };
    let name = of.split_once(' ').map(|(_, name)| format!("{schema}.{name}"));
    name.is_some() && name.as_deref() == whole.split_once("VIEW ").map(|(_, view)| view)
}

fn classify(object: &str, reason: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let missing = says(&["does not exist"]);
    let own_name = object.rsplit(' ').next().unwrap_or_default();
    if object.contains("VIEW ") && missing && reason.starts_with(&format!("relation \"{own_name}\"")) {
        "self_reference"
    } else if says(&["row-level security"]) {
        "row_security"
    } else if missing && reason.starts_with("role ") {
        "missing_role"
    } else if says(&[
        "is not available",
        "could not open extension control file",
        "could not access file",
        "could not load library",
    ]) {
        "missing_software"
    } else if missing {
        "missing_object"
    } else if says(&["must be able to SET ROLE", "must be member of role"]) {
        "ownership"
    } else if says(&["ermission denied", "must be superuser", "must be owner", "must be able to", "must have"]) {
        "permission"
    } else if says(&["violates", "invalid input", "could not create unique index", "out of range"]) {
        "data"
    } else {
        "other"
    }
}

/// What to do about a failure.
pub(crate) fn hint(failure: &LoadFailure) -> Option<&'static str> {
    Some(match failure.class.as_str() {
        "self_reference" => {
            "the view selects from itself, so pg_restore cannot make it either: drop or mend it in the source; to rescue the rest of this snapshot, restore with --keep-going"
        }
        "row_security" => {
            "it reads a table with FORCE ROW LEVEL SECURITY, so pg_restore cannot fill it either: restore with --keep-going, then REFRESH it by hand"
        }
        "missing_role" => {
            "create the role, or take the snapshot's roles along with --globals; --keep-going leaves out what needs it"
        }
        "missing_software" => "install the extension's or library's package on the server that is restored into",
        "missing_object" => {
            "a function, constraint or view may find its objects by search_path, which pg_restore empties: in the source, name the schema, or ALTER FUNCTION … SET search_path; to rescue the rest of this snapshot, restore with --keep-going"
        }
        "permission" => {
            "only a role with more rights can make it: if you trust all code in the snapshot, connect as a superuser with --as-superuser; --keep-going leaves it out"
        }
        "ownership" => {
            "the role that restores may not become the owner: connect as a superuser (--as-superuser is not needed for this), or as a role that is a member of the owner; --keep-going leaves out what cannot be made"
        }
        "rights" => {
            "create the roles that are missing, or give the role that restores more rights; --keep-going leaves these owners and rights out and lists them, to be set by hand"
        }
        "data" => {
            "the data breaks a rule of its own database, as when a function that a constraint calls was changed later: mend it in the source; --keep-going leaves it out"
        }
        _ => return None,
    })
}

/// The error of a load that went on to the end without some objects.
pub(crate) fn incomplete(failures: &[LoadFailure]) -> Option<Error> {
    let first = failures.first()?;
    let told = failures.iter().take(MAX_TOLD).map(|failure| format!("{} ({})", failure.object, failure.reason));
    let mut told = told.collect::<Vec<_>>().join("; ");
    if failures.len() > MAX_TOLD {
        told.push_str(&format!("; and {} more", failures.len() - MAX_TOLD));
    }
    let mut hints: Vec<&str> = failures.iter().filter_map(hint).collect();
    hints.sort_unstable();
    hints.dedup();
    let error = Error::source_failed(format!("database {}: could not be loaded: {told}", first.database));
    Some(if hints.is_empty() { error } else { error.hint(hints.join("; ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_is_told_with_its_object_and_class() {
        let failures = Failures::default();
        let (mut listener, heard) = Listener::new(&failures, "shop", None);
        let said = "pg_restore: while PROCESSING TOC:\npg_restore: from TOC entry 214; 1259 16386 VIEW one postgres\n\
            pg_restore: error: could not execute query: ERROR:  relation \"public.one\" does not exist\nLINE 1: x\n\
            pg_restore: from TOC entry 3; 1 2 TABLE DATA public fact me\n\
            pg_restore: error: COPY failed for table \"fact\": ERROR:  relation \"dict\" does not exist\n\
            pg_restore: error: could not execute query: ERROR:  role \"x\" does not exist\n\
            pg_restore: from TOC entry 4; 1259 1 VIEW public.two me\n\
            pg_restore: error: could not execute query: ERROR:  relation \"public.two\" does not exist\n\
            pg_restore: from TOC entry 5; 0 0 ACL public.TABLE two me\n\
            pg_restore: error: could not execute query: ERROR:  relation \"public.two\" does not exist\n\
            pg_restore: from TOC entry 6; 0 0 ACL public.TABLE twofold me\n\
            pg_restore: error: could not execute query: ERROR:  relation \"public.twofold\" does not exist\n\
            pg_restore: warning: errors ignored on restore: 3\n";
        for piece in said.as_bytes().chunks(7) {
            listener.hear(piece);
        }
        assert!(heard.went_on());
        let all = failures.take();
        let told: Vec<(&str, &str)> =
            all.iter().map(|failure| (failure.object.as_str(), failure.class.as_str())).collect();
        assert_eq!(
            told,
            [
                ("VIEW one", "missing_object"),
                ("TABLE DATA public fact", "missing_object"),
                ("TABLE DATA public fact", "missing_role"),
                ("VIEW public.two", "self_reference"),
                ("ACL public.TABLE two", "consequence"),
                ("ACL public.TABLE twofold", "missing_object"),
            ]
        );
        assert_eq!(classify("VIEW public.one", "relation \"public.one\" does not exist"), "self_reference");
        for reason in ["must be able to SET ROLE \"postgres\"", "must be member of role \"postgres\""] {
            assert_eq!(classify("SCHEMA a", reason), "ownership");
        }
        assert!(incomplete(&all).is_some_and(|error| error.message().contains("VIEW one (relation")));
        assert!(incomplete(&[]).is_none());
    }
}
