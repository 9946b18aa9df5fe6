-- The same rows on every server and in every run: what looks random is a hash of the row's number.
-- @SCALE@ 1.0 is about 200 MB of uncompressed dump.
BEGIN;
SET LOCAL search_path = shop, public;
SET LOCAL synchronous_commit = off;
SET LOCAL work_mem = '64MB';
SET LOCAL timezone = 'UTC';
-- The rows refer to each other by construction; checking each one would take longer than making it.
SET LOCAL session_replication_role = replica;

CREATE FUNCTION pg_temp.scaled(n integer) RETURNS integer LANGUAGE sql IMMUTABLE AS
    $$ SELECT greatest(10, (n * @SCALE@)::integer) $$;
-- A number below m that depends on i and on what it is for.
CREATE FUNCTION pg_temp.pick(i bigint, salt integer, m integer) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    $$ SELECT (hashint8extended(i, salt) & 2147483647)::integer % m $$;

INSERT INTO customers (name, email, home, phones, newsletter, notes, joined)
SELECT (ARRAY['Åsa', 'Łukasz', 'Ελένη', 'محمد', 'שרה', '小龍', 'Zoë', 'Nguyễn', 'Иван', 'Chloe', 'अनीता', 'たろう'])[1 + pg_temp.pick(i, 1, 12)]
           || ' ' || (ARRAY['Öberg', 'Wójcik', 'Παπαδοπούλου', 'الأحمد', 'כהן', '李', 'O''Brien', 'Müller-Lüdenscheidt', 'Петров', 'Smith'])[1 + pg_temp.pick(i, 2, 10)],
       'customer' || i || '@example.' || (ARRAY['com', 'org', 'net'])[1 + pg_temp.pick(i, 3, 3)],
       ROW(substr(md5('street' || i), 1, 12) || ' ' || pg_temp.pick(i, 4, 200), (ARRAY['Malmö', 'Kraków', 'Αθήνα', 'القاهرة', '東京', 'Québec'])[1 + pg_temp.pick(i, 5, 6)],
           lpad(pg_temp.pick(i, 6, 99999)::text, 5, '0'), (ARRAY['SE', 'PL', 'GR', 'EG', 'JP', 'CA'])[1 + pg_temp.pick(i, 5, 6)])::address,
       CASE pg_temp.pick(i, 7, 3) WHEN 0 THEN '{}' WHEN 1 THEN ARRAY['+46 ' || pg_temp.pick(i, 8, 9999999)] ELSE ARRAY['+1 ' || i, NULL, 'ask "twice", please'] END,
       CASE pg_temp.pick(i, 9, 3) WHEN 0 THEN NULL WHEN 1 THEN true ELSE false END,
       CASE WHEN i % 7 = 0 THEN E'called twice\n\tsaid: "💚 \\ fine"' WHEN i % 11 = 0 THEN '' END,
       timestamptz '2020-01-01' + i * interval '83 minutes'
FROM generate_series(1, pg_temp.scaled(40000)) AS i;

INSERT INTO products (sku, title, price, weight_grams, attributes, thumbnail)
SELECT md5('sku' || i)::uuid, (ARRAY['Life vest', 'Flare 🧨', 'Ruder', 'Πυξίδα', 'بوصلة', 'Rope', '救生圈'])[1 + pg_temp.pick(i, 10, 7)] || ' No. ' || i,
       1 + pg_temp.pick(i, 11, 50000) / 100.0, 1 + pg_temp.pick(i, 12, 20000),
       jsonb_build_object('colour', (ARRAY['red', 'grün', 'μπλε'])[1 + pg_temp.pick(i, 13, 3)], 'tags', jsonb_build_array('t' || i % 17, NULL, i % 5 = 0), 'rating', pg_temp.pick(i, 14, 50) / 10.0),
       CASE WHEN i % 3 = 0 THEN decode(repeat(md5('thumb' || i), 20), 'hex') END
FROM generate_series(1, pg_temp.scaled(5000)) AS i;
INSERT INTO price_history SELECT id, tstzrange('2026-01-01', NULL), price FROM products;

INSERT INTO orders (ordered_on, customer, status, ship_to, greeting)
SELECT date '2026-01-01' + (i * 320 / pg_temp.scaled(280000))::integer, 1 + pg_temp.pick(i, 20, pg_temp.scaled(40000)),
       (ARRAY['shipped', 'shipped', 'shipped', 'returned', 'paid', 'packed'])[1 + pg_temp.pick(i, 21, 6)]::order_status,
       CASE WHEN i % 4 = 0 THEN ROW(substr(md5('ship' || i), 1, 16), 'Malmö', '21119', 'SE')::address END,
       CASE WHEN i % 9 = 0 THEN 'Grüße und 🎉 zum ' || i % 90 || '. Geburtstag' END
FROM generate_series(1, pg_temp.scaled(280000)) AS i;

INSERT INTO order_lines (order_id, ordered_on, line, product, quantity, unit_price)
SELECT o.id, o.ordered_on, line, 1000 + 5 * pg_temp.pick(o.id * 8 + line, 30, pg_temp.scaled(5000)),
       1 + pg_temp.pick(o.id * 8 + line, 31, 9), 1 + pg_temp.pick(o.id * 8 + line, 32, 50000) / 100.0
FROM orders o, generate_series(1, 1 + pg_temp.pick(o.id, 33, 6)) AS line;

INSERT INTO invoices (order_id, ordered_on, amount, due, paid_at, reference)
SELECT order_id, ordered_on, sum(total), daterange(ordered_on, ordered_on + 30),
       CASE WHEN order_id % 8 <> 0 THEN ordered_on + interval '9 days 7 hours' + order_id * interval '1 second' END, 'RF' || upper(substr(md5('ref' || order_id), 1, 18))
FROM order_lines GROUP BY order_id, ordered_on ORDER BY order_id;

INSERT INTO events (at, client, payload)
SELECT timestamptz '2026-01-01' + i * interval '88 seconds', ('10.' || pg_temp.pick(i, 40, 256) || '.' || pg_temp.pick(i, 41, 256) || '.7')::inet,
       jsonb_build_object('kind', (ARRAY['view', 'search', 'add_to_cart', 'login'])[1 + pg_temp.pick(i, 42, 4)], 'session', md5('session' || i / 20),
           'path', '/p/' || pg_temp.pick(i, 43, 5000), 'agent', 'Mozilla/5.0 (X11; Linux x86_64; rv:' || 100 + pg_temp.pick(i, 44, 40) || '.0)',
           'query', CASE WHEN i % 5 = 0 THEN 'лодка ' || i % 1000 END, 'timing', jsonb_build_array(pg_temp.pick(i, 45, 900), pg_temp.pick(i, 46, 90), i % 7))
FROM generate_series(1, pg_temp.scaled(300000)) AS i;

WITH written AS (
    SELECT i, decode(string_agg(md5(i || '/' || block), '' ORDER BY block), 'hex') AS content
    FROM generate_series(1, pg_temp.scaled(700)) AS i, generate_series(1, 4096) AS block GROUP BY i
)
INSERT INTO documents (title, content, sha256)
SELECT 'Lieferschein ' || i || ' ✍️', lo_from_bytea(0, content), sha256(content) FROM written ORDER BY i;

INSERT INTO carts SELECT i, ARRAY[1000, 1005, NULL] FROM generate_series(1, pg_temp.scaled(1000)) AS i;

INSERT INTO "Sondertabelle № 1 – ταμπλό" VALUES
    ('', 'NaN', 'NaN', '-infinity', '-1 year 2 mons -3 days 04:05:06.789', B'', 'null', '{}'),
    (E'tab\tnewline\nreturn\rbackslash\\quote''"\u0001', '-Infinity', 'Infinity', 'infinity', '0', B'1010', '{"a": [1, 2.50, "\u00e9", {}]}', '{{1,2},{3,NULL}}'),
    ('\N', '-0', 0.1000000000000000055511151231257827, '0044-03-15 12:00:00+00 BC', '178000000 years', B'1111111111111111', '""', NULL),
    ('\.', 5e-324, 1e-130, '294276-12-31 23:59:59.999999+00', NULL, NULL, '[]', '[2:3]={7,8}'),
    ('👩‍👩‍👧‍👦 ‏עברית‏ e' || U&'\0301', 1.7976931348623157e308, -123456789012345678901234567890.123456789, '2026-03-29 01:59:59.999999+00', '1 microsecond', B'0', '{"🔑": "🛟"}', '{1}');
COMMIT;

SET shop.now = '2026-11-16 00:00:00+00';
REFRESH MATERIALIZED VIEW shop.revenue_by_month;
ANALYZE;
