-- What reads otherwise after a restore, and means the same.
CREATE TABLE pr (a int, b int); CREATE TABLE pt (i int, v text);
CREATE FUNCTION of_literals(a int) RETURNS TABLE (x int, y text) LANGUAGE sql BEGIN ATOMIC SELECT 1, 'a'; END;
CREATE FUNCTION of_parameter(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT $1; END;
CREATE FUNCTION of_scalar(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT (SELECT $1); END;
CREATE FUNCTION of_union(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT $1 UNION SELECT 2; END;
CREATE FUNCTION of_all(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC WITH w AS (SELECT $1, 'x' AS z) SELECT $1 FROM (SELECT $1, (SELECT 'b')) q LEFT JOIN w ON w.z = (SELECT 'c') WHERE EXISTS (SELECT $1, 'a') ORDER BY 1; END;
CREATE PROCEDURE of_insert(a int) LANGUAGE sql BEGIN ATOMIC INSERT INTO pr SELECT $1, $1; END;
CREATE RULE of_rule AS ON UPDATE TO pr DO ALSO UPDATE pt SET (i, v) = (SELECT 1, 'a') WHERE pt.i = OLD.a;
CREATE VIEW of_fields AS SELECT extract('YEAR' FROM now()) AS y, extract("Month" FROM now()) + 1 AS m, extract(epoch FROM now()) AS e;
CREATE INDEX of_index ON pt (extract('DAY' FROM timestamp '2026-01-01' + make_interval(days => i)));
CREATE TABLE only_a (a int); CREATE TABLE only_b (b int);
CREATE VIEW of_joins AS SELECT l.a, r.b, f.a AS fa FROM only_a l NATURAL LEFT JOIN only_b lb, only_a ra NATURAL RIGHT JOIN only_b r, only_a f NATURAL FULL JOIN only_b fb;
-- An owner of an object of the server's own, which no dump holds.
CREATE ROLE printed_owner; ALTER FUNCTION pg_catalog.lo_export(oid, text) OWNER TO printed_owner; GRANT SELECT ON pg_catalog.pg_authid TO printed_owner;
-- Before 16, the grantor of a membership may go.
CREATE ROLE printed_group; CREATE ROLE "Printed ""member""";
DO $$ BEGIN IF current_setting('server_version_num')::int < 160000 THEN
CREATE ROLE printed_admin SUPERUSER; SET ROLE printed_admin;
GRANT printed_group TO "Printed ""member"""; GRANT pg_monitor TO "Printed ""member""" WITH ADMIN OPTION; RESET ROLE; DROP ROLE printed_admin;
END IF; END $$;
-- A right whose grantor can no longer grant it, and became a member of the owner.
CREATE ROLE printed_boss; CREATE ROLE printed_former; CREATE ROLE printed_reader; GRANT printed_boss TO printed_former;
CREATE TABLE granted (a int); ALTER TABLE granted OWNER TO printed_boss;
UPDATE pg_class SET relacl = '{printed_boss=arwdDxt/printed_boss,printed_former=a/printed_boss,printed_reader=r/printed_former}' WHERE oid = 'granted'::regclass;
