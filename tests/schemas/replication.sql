-- Publications, foreign data, event triggers, access to other servers.
CREATE TABLE pub (id int PRIMARY KEY, s varchar(9), n int, secret text); CREATE TABLE pub2 (id int PRIMARY KEY); INSERT INTO pub VALUES (1, 'a', 2, 'x');
CREATE SCHEMA pubs; CREATE TABLE pubs.t (id int PRIMARY KEY);
CREATE PUBLICATION rows_and_columns FOR TABLE pub (id, s, n) WHERE (n IN (1, 2) AND (n > 1 AND id > 0)), pub2 WITH (publish = 'insert, update', publish_via_partition_root = true);
CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA pubs; CREATE PUBLICATION everything FOR ALL TABLES;
ALTER TABLE pub2 REPLICA IDENTITY FULL;
CREATE EXTENSION postgres_fdw; CREATE EXTENSION file_fdw; CREATE SERVER far TYPE 'x' VERSION '1' FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'h''ost', dbname 'd b', "use_remote_estimate" 'true');
CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'u', password 'p''w\'); CREATE FOREIGN TABLE ft (id int OPTIONS (column_name 'ID x') NOT NULL, s varchar(9) DEFAULT 'a' CHECK (s IN ('a', 'b'))) SERVER far OPTIONS (schema_name 'S', table_name 'T"x');
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; CREATE FOREIGN TABLE part_of (id int, s text) SERVER files OPTIONS (filename '/nowhere', format 'csv');
CREATE FUNCTION ev() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM 1; END $$; CREATE EVENT TRIGGER et ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'DROP INDEX') EXECUTE FUNCTION ev(); ALTER EVENT TRIGGER et ENABLE REPLICA;
CREATE SUBSCRIPTION sub CONNECTION 'host=/nowhere dbname=x' PUBLICATION a, "b c" WITH (connect = false, slot_name = NONE, enabled = false, binary = true);
CREATE UNLOGGED TABLE un (id serial, s text); INSERT INTO un (s) VALUES ('x'); CREATE TABLE opt (id int, t text COMPRESSION pglz) WITH (autovacuum_enabled = false, toast.autovacuum_vacuum_threshold = 7, fillfactor = 50); ALTER TABLE opt ALTER t SET STORAGE MAIN; ALTER TABLE opt ALTER t SET (n_distinct = -0.5);
CREATE ACCESS METHOD heap_too TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE am (id int) USING heap_too; INSERT INTO am VALUES (1); CREATE TABLE after_am (id int);
CREATE TABLE typed_of (n int); CREATE TYPE row_type AS (a int, b varchar(5)); CREATE TABLE of_type OF row_type (a WITH OPTIONS PRIMARY KEY, b DEFAULT 'x' CHECK (b IN ('x', 'y'))); INSERT INTO of_type VALUES (1);
