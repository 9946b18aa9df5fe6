-- Names and comments that need care in every quoting.
CREATE SCHEMA "Sch.ema ""q"" ;--"; CREATE SCHEMA "select"; CREATE SCHEMA "ünï 日本";
CREATE TABLE "Sch.ema ""q"" ;--"."Tab'le $$ \ /* */" ("col;umn" int, "COPY x FROM stdin;" text, "\." text, " " int, "a,b" text, "from" int, "ß" text DEFAULT 'it''s');
INSERT INTO "Sch.ema ""q"" ;--"."Tab'le $$ \ /* */" VALUES (1, E'\\.', E'line\n\\.\n--', 2, E'\t', 3, NULL), (2, '\N', '', NULL, E'\r\n', 4, E'\\');
CREATE TABLE "ünï 日本"."tëst" (n int); INSERT INTO "ünï 日本"."tëst" VALUES (1);
CREATE TABLE "select"."table" ("order" int PRIMARY KEY, "user" text CHECK ("user" IN ('group', 'by')));
COMMENT ON TABLE "select"."table" IS E'first\n-- Name: x; Type: TABLE; Schema: y; Owner: z\n\n--\n-- Data for Name: q; Type: TABLE DATA; Schema: s; Owner: o\n--\nCOPY q (a) FROM stdin;\n1\n\\.\n$$ '' " \\ /* ünï';
COMMENT ON COLUMN "select"."table"."order" IS 'tab	 end;'; COMMENT ON CONSTRAINT "table_pkey" ON "select"."table" IS ''';--';
COMMENT ON SCHEMA "select" IS '\'; COMMENT ON SCHEMA public IS 'mine';
CREATE TABLE "select"."no columns" (); INSERT INTO "select"."no columns" DEFAULT VALUES; INSERT INTO "select"."no columns" DEFAULT VALUES;
CREATE TABLE "select".aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa (id serial, UNIQUE (id));
CREATE TABLE "select"."newline
in name" ("col
umn" int, "c2" text); INSERT INTO "select"."newline
in name" SELECT n, 'x' FROM generate_series(1, 20) n;
CREATE FUNCTION "select"."func;(int)"("arg ""1""" int) RETURNS int LANGUAGE sql AS 'SELECT 1'; COMMENT ON FUNCTION "select"."func;(int)"(int) IS 'c';
CREATE INDEX "idx ;" ON "select"."table" (("order" + 1)); CREATE VIEW "select"."view" AS SELECT "order", "user" AS "User" FROM "select"."table" WHERE "user" IN ('group', 'by');
CREATE TYPE "select"."type;" AS ("f 1" int, "f""2" text[]); CREATE TABLE "select".uses (a "select"."type;"[] DEFAULT ARRAY[ROW(1, '{"a,b","c\"d"}')]::"select"."type;"[]); INSERT INTO "select".uses DEFAULT VALUES;
CREATE TABLE quoted_money (m money DEFAULT 12.5, i inet DEFAULT '::1', mac macaddr8, tz timetz DEFAULT '12:00+02', iv interval[], b bytea DEFAULT '\x00ff', c "char" DEFAULT '"', pt path, js json DEFAULT '{"a" : 1 }', oid oid DEFAULT 4294967295, lsn pg_lsn, q tsquery DEFAULT 'a & b:*', reg regclass DEFAULT 'pg_class', f8 float8 DEFAULT 'Infinity', f4 float4 DEFAULT 1.1);
INSERT INTO quoted_money (iv, pt, f8) VALUES (ARRAY[interval '1 mon -2 days 03:04:05.678'], '((0,0),(1,1))', 0.1 + 0.2), (NULL, '[(1,1),(2,3)]', '-0');
