-- Collations of ICU, XML, text search, enums in use.
CREATE COLLATION nd (provider = icu, locale = 'und-u-ks-level2', deterministic = false); CREATE COLLATION german (provider = icu, locale = 'de-u-co-phonebk'); CREATE COLLATION copy_c FROM "C";
CREATE TABLE co (a text COLLATE nd, b varchar(10) COLLATE german CHECK (b IN ('ä', 'ö')), c text COLLATE "C" DEFAULT 'x', PRIMARY KEY (a)); CREATE INDEX ON co (b COLLATE "C" DESC, lower(c) COLLATE nd);
INSERT INTO co VALUES ('Ä', 'ä', 'x'), ('b', 'ö', 'y');
CREATE VIEW co_v AS SELECT a, b COLLATE "POSIX" AS b2, c < b COLLATE "C" AS l FROM co WHERE b COLLATE "C" IN ('x', 'y') ORDER BY a COLLATE german;
CREATE TEXT SEARCH DICTIONARY simple_off (TEMPLATE = pg_catalog.simple, STOPWORDS = 'english', Accept = false);
CREATE TEXT SEARCH CONFIGURATION mine (COPY = german); ALTER TEXT SEARCH CONFIGURATION mine ALTER MAPPING FOR word, asciiword WITH simple_off, german_stem; ALTER TEXT SEARCH CONFIGURATION mine DROP MAPPING FOR url;
CREATE TABLE docs (t text, v tsvector); CREATE TRIGGER v BEFORE INSERT ON docs FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger(v, 'public.mine', t); INSERT INTO docs VALUES ('Die Häuser und Gärten'); CREATE INDEX ON docs USING gin (to_tsvector('public.mine', t));
CREATE TYPE level AS ENUM ('low', 'high'); CREATE TABLE lv (l level DEFAULT 'low' CHECK (l IN ('low', 'high')), ls level[] DEFAULT ARRAY['low', 'high']::level[], CHECK (l = ANY (ls))); INSERT INTO lv DEFAULT VALUES;
CREATE INDEX ON lv (l) WHERE l NOT IN ('low'); ALTER TYPE level RENAME VALUE 'low' TO 'lowest'; ALTER TYPE level ADD VALUE 'mid' AFTER 'lowest';
CREATE TABLE xm (x xml); INSERT INTO xm VALUES ('<a b="c">&amp;</a>'), (NULL); CREATE VIEW xv AS SELECT xmlelement(name "a b", xmlattributes(1 AS "x"), xmlforest(x AS y)) AS x, xpath('/a', x) AS p, x IS DOCUMENT AS d FROM xm; CREATE VIEW xt AS SELECT t.* FROM xm, XMLTABLE('/r' PASSING x COLUMNS n FOR ORDINALITY, v varchar(5) PATH '@v' DEFAULT 'q') AS t;
