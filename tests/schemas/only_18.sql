-- What PostgreSQL 18 brought: virtual columns, temporal keys, named NOT NULL, NOT ENFORCED.
CREATE EXTENSION btree_gist;
CREATE TABLE v (id int CONSTRAINT "named nn" NOT NULL, s varchar(9), virt boolean GENERATED ALWAYS AS (s IN ('a', 'b')) VIRTUAL, st int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (id));
ALTER TABLE v ADD CONSTRAINT later NOT NULL s NOT VALID; ALTER TABLE v ADD CONSTRAINT no_force CHECK (s IN ('a', 'b') AND (id > 0 AND id < 9)) NOT ENFORCED;
INSERT INTO v (id, s) VALUES (1, 'a'), (2, 'zz');
CREATE TABLE temporal (id int, during daterange, PRIMARY KEY (id, during WITHOUT OVERLAPS)); CREATE TABLE of_it (id int, tid int, during daterange, FOREIGN KEY (tid, PERIOD during) REFERENCES temporal (id, PERIOD during)); INSERT INTO temporal VALUES (1, '[2026-01-01,2026-02-01)');
CREATE TABLE parent (a int NOT NULL NO INHERIT, b int NOT NULL); CREATE TABLE kid () INHERITS (parent); ALTER TABLE kid ADD CONSTRAINT own NOT NULL a; INSERT INTO kid VALUES (1, 2); ALTER TABLE parent ADD COLUMN c int NOT NULL DEFAULT 3;
CREATE TABLE pp (id int NOT NULL, s varchar(5)) PARTITION BY LIST (s) ; CREATE TABLE pp1 (s varchar(5), id int CONSTRAINT "other name" NOT NULL); ALTER TABLE pp ATTACH PARTITION pp1 FOR VALUES IN ('a', 'b');
CREATE TABLE j (j jsonb, CHECK (j IS JSON OBJECT WITH UNIQUE KEYS), x text GENERATED ALWAYS AS (JSON_VALUE(j, '$.a' RETURNING text DEFAULT 'none' ON EMPTY)) STORED); INSERT INTO j VALUES ('{"a": "b"}'); CREATE VIEW jt AS SELECT t.* FROM j, JSON_TABLE(j.j, '$.items[*]' COLUMNS (n FOR ORDINALITY, a varchar(5) PATH '$.a' DEFAULT 'x' ON EMPTY, NESTED PATH '$.b[*]' COLUMNS (c int PATH '$'))) AS t;
CREATE COLLATION bi (provider = builtin, locale = 'PG_UNICODE_FAST'); CREATE TABLE cb (t text COLLATE bi, u uuid DEFAULT uuidv7()); INSERT INTO cb VALUES ('a', '00000000-0000-7000-8000-000000000000');
CREATE MATERIALIZED VIEW mv18 AS SELECT any_value(s) AS s, count(*) FROM v WHERE s IN ('a', 'b') GROUP BY id; CREATE VIEW mg AS SELECT OLD_OR_NEW.* FROM (SELECT 1 AS a) OLD_OR_NEW;
CREATE FUNCTION merge_it() RETURNS void LANGUAGE sql BEGIN ATOMIC MERGE INTO v USING temporal t ON v.id = t.id WHEN MATCHED AND v.s IN ('a', 'b') THEN UPDATE SET s = 'c' WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN NOT MATCHED THEN INSERT (id, s) VALUES (t.id, 'q'); END;
