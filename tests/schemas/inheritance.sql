-- Inheritance that grew over the years.
CREATE TABLE base (id int NOT NULL, a text DEFAULT 'd', CHECK (id > 0));
CREATE TABLE other (id int, z int DEFAULT 1);
CREATE TABLE kid (own numeric DEFAULT 1.5, a text DEFAULT 'kid', UNIQUE (id)) INHERITS (base);
CREATE TABLE both_of (extra text) INHERITS (base, other);
ALTER TABLE base ADD COLUMN later varchar(5) DEFAULT 'l' CHECK (later IN ('l', 'm'));
ALTER TABLE base ADD COLUMN "odd, (name)" int;
ALTER TABLE other DROP COLUMN z;
CREATE TABLE joined (own2 int, later varchar(5), id int NOT NULL, a text, "odd, (name)" int);
ALTER TABLE joined ADD CONSTRAINT base_id_check CHECK (id > 0);
ALTER TABLE joined ADD CONSTRAINT base_later_check CHECK (later IN ('l', 'm'));
ALTER TABLE joined INHERIT base;
INSERT INTO base VALUES (1, E'tab\t', 'l', 4);
INSERT INTO kid (id, own) VALUES (2, 7), (3, NULL);
INSERT INTO both_of (id, extra) VALUES (4, 'x');
INSERT INTO joined VALUES (9, 'm', 5, 'q', 6);
ALTER TABLE kid ALTER later SET DEFAULT 'm', ALTER own SET STATISTICS 50, ALTER a SET STORAGE EXTERNAL;
CREATE RULE keep AS ON INSERT TO base WHERE NEW.a IN ('no', 'never') DO INSTEAD NOTHING;
