-- One business day: new orders, progress on recent ones, a few corrections, a little removed. Every constraint and trigger is on.
BEGIN;
SET LOCAL search_path = shop, public;
SET LOCAL timezone = 'UTC';
SET LOCAL shop.now = '2026-11-17 18:00:00+00';

CREATE FUNCTION pg_temp.of(total bigint, share numeric) RETURNS integer LANGUAGE sql AS
    $$ SELECT greatest(3, (total * share)::integer) $$;

INSERT INTO customers (name, email, home, newsletter, joined)
SELECT 'Neukunde Jörg ' || i || ' 🌊', 'new' || i || '-' || (SELECT max(id) FROM customers) || '@example.org', ROW('Hafenstraße ' || i, 'Kiel', '24103', 'DE')::address, true, current_setting('shop.now')::timestamptz
FROM generate_series(1, pg_temp.of((SELECT count(*) FROM customers), 0.002)) AS i;

WITH placed AS (
    INSERT INTO orders (ordered_on, customer, greeting)
    SELECT '2026-11-17', 1 + i % (SELECT count(*) FROM customers), CASE WHEN i % 5 = 0 THEN 'תודה רבה' END
    FROM generate_series(1, pg_temp.of((SELECT count(*) FROM orders), 0.004)) AS i
    RETURNING id, ordered_on
)
INSERT INTO order_lines (order_id, ordered_on, line, product, quantity, unit_price)
SELECT id, ordered_on, line, 1000 + 5 * ((id + line) % 10), line, 9.99 * line FROM placed, generate_series(1, 3) AS line;
INSERT INTO invoices (order_id, ordered_on, amount, due)
SELECT order_id, ordered_on, sum(total), daterange(ordered_on, ordered_on + 14) FROM order_lines
WHERE ordered_on = '2026-11-17' AND NOT EXISTS (SELECT FROM invoices i WHERE i.order_id = order_lines.order_id)
GROUP BY order_id, ordered_on ORDER BY order_id;

UPDATE orders SET status = 'shipped' WHERE ordered_on >= '2026-11-10' AND status = 'packed';
UPDATE invoices SET paid_at = current_setting('shop.now')::timestamptz WHERE ordered_on >= '2026-11-10' AND paid_at IS NULL;
UPDATE products SET price = price + 1 WHERE id < 1050;
UPDATE customers SET notes = 'moved to Þórshöfn' WHERE id IN (SELECT id FROM customers ORDER BY id DESC LIMIT 20);
DELETE FROM orders WHERE ordered_on >= '2026-11-14' AND status = 'returned';
TRUNCATE carts;

INSERT INTO events (at, client, payload)
SELECT timestamptz '2026-11-17' + i * interval '1 second', '2001:db8::1', jsonb_build_object('kind', 'view', 'path', '/black-friday/' || i, 'session', md5('today' || i))
FROM generate_series(1, pg_temp.of((SELECT count(*) FROM events), 0.004)) AS i;

-- One delivery note is corrected in place, one is new, one goes.
SELECT lo_put((SELECT content FROM documents ORDER BY id LIMIT 1), 1000, 'corrected by hand'::bytea);
UPDATE documents SET sha256 = sha256(lo_get(content)) WHERE id = (SELECT min(id) FROM documents);
INSERT INTO documents (title, content, sha256)
SELECT 'Lieferschein von heute', lo_from_bytea(0, body), sha256(body) FROM (VALUES (convert_to(repeat('Unterschrift fehlt. ', 3000), 'UTF8'))) AS v (body);
SELECT lo_unlink(content) FROM documents WHERE id = (SELECT min(id) + 1 FROM documents);
DELETE FROM documents WHERE id = (SELECT min(id) + 1 FROM documents);
COMMIT;

REFRESH MATERIALIZED VIEW CONCURRENTLY shop.revenue_by_month;
