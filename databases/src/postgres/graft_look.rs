//! The look, as the last act of a [graft](super::graft)'s transaction, whether the role that loads
//! made or gave anything beside what was picked.

use super::extract::Picked;
use super::heirs::qualified;
use super::own_archive::OwnArchive;
use super::sql::{literal, quoted, quoted_text};

/// Whether somebody has made a policy before we did.
pub(super) const NO_POLICY: &str = "OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = ANY (expected))";

/// Adds a look whether nothing else was made, where another role loads than ours.
pub(super) fn add_look(archive: &mut OwnArchive, helper: Option<&str>, look: &str) {
    if let Some(helper) = helper {
        archive.add_own("CHECK", "that nothing else was made", format!("SELECT {}.{look}();\n", quoted(helper)));
    }
}

/// The body of a function that fails unless the role that loads owns the picked tables and
/// sequences and nothing else, has given nobody rights on them or their columns, and is as it was
/// made. `more` is one more reason to fail.
pub(super) fn nothing_else(picked: &Picked, role: &str, verifier: &str, more: &str) -> String {
    let relations = picked.tables.iter().chain(&picked.sequences);
    let expected: Vec<String> =
        relations.map(|one| format!("{}::regclass", String::from_utf8_lossy(&quoted_text(&qualified(one))))).collect();
    format!(
        "DECLARE me oid; expected oid[] := ARRAY[{expected}]::oid[]; BEGIN
            me := (SELECT oid FROM pg_authid WHERE rolname = {role} AND md5(coalesce(rolpassword, '')) = {verifier});
            IF me IS NULL
                OR EXISTS (SELECT FROM pg_db_role_setting WHERE setrole = me)
                OR EXISTS (SELECT FROM pg_auth_members WHERE roleid = me OR member = me)
                OR EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = me AND d.deptype = 'o'
                    AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND d.classid <> 'pg_statistic_ext'::regclass
                    AND NOT (d.classid = 'pg_class'::regclass AND d.objid = ANY (expected)))
                OR EXISTS (SELECT FROM pg_class c WHERE c.oid = ANY (expected)
                    AND (c.relacl IS NOT NULL OR c.relhasrules OR c.relowner <> me))
                OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = ANY (expected) AND a.attacl IS NOT NULL)
                {more}
                OR EXISTS (SELECT FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgrelid = ANY (expected)) THEN
                RAISE EXCEPTION 'code of the database made more than the tables while they were loaded';
            END IF;
        END",
        expected = expected.join(", "),
        role = literal(role),
        verifier = literal(verifier),
    )
}
