-- Checks and defaults, in every way that people write them.
CREATE TABLE c (
    id bigserial PRIMARY KEY,
    state varchar(20) NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'paid', 'sent')),
    kind char(3) CHECK (kind IN ('abc', 'def')),
    n int CHECK (n BETWEEN 1 AND 5 OR n BETWEEN SYMMETRIC 20 AND 10),
    m smallint CHECK (m IN (1, 2, 3)),
    big bigint CHECK (big > 0 AND big < 1e18),
    r real CHECK (r IN (0.5, 1.5)),
    price numeric(10, 2) DEFAULT 0.00 CHECK (price >= 0 AND price <> 'NaN'),
    tags varchar[] DEFAULT '{}'::varchar[] CHECK (tags <@ ARRAY['a', 'b']::varchar[]),
    t text CHECK (t ~ '^[a-z''\\]+$' AND t NOT LIKE 'x\_%' AND t NOT ILIKE ANY (ARRAY['%a', 'b%'])),
    at timestamptz DEFAULT now() CHECK (at > '2001-01-01' AND at AT TIME ZONE 'UTC' < '2100-01-01'),
    day date DEFAULT CURRENT_DATE CHECK (extract(isodow FROM day) IN (1, 2, 3, 4, 5, 6, 7)),
    span interval DEFAULT '1 day 02:03:04' CHECK (span IN ('1 day', '1 day 02:03:04')),
    bits bit(4) DEFAULT B'0101', vb bit varying(8) DEFAULT B'1',
    j jsonb DEFAULT '{"a": [1, "x''y"]}' CHECK (jsonb_typeof(j) = 'object' AND j ? 'a'),
    u uuid DEFAULT gen_random_uuid(),
    who name DEFAULT CURRENT_USER,
    x int, y int,
    CHECK ((x, y) <> (0, 0)), CHECK (ROW(x, y) IS DISTINCT FROM ROW(1, NULL)), CHECK (num_nonnulls(x, y) >= 0),
    CHECK (x IS NULL OR x NOT IN (7, 8) AND y NOT IN (9)), CHECK (NOT (x = 1 AND (y = 2 AND (n = 3 AND m = 4)))),
    CHECK (CASE state WHEN 'new' THEN x IS NULL WHEN 'paid' THEN true ELSE COALESCE(x, y, 0) >= 0 END),
    CHECK (state::text <> ALL (ARRAY['bad'::varchar, 'worse']::text[])), CHECK (lower(state) = state::text),
    CONSTRAINT "odd ""name"", (1)" CHECK ((x IS NULL) = (y IS NULL)) NO INHERIT
);
ALTER TABLE c ADD CONSTRAINT late CHECK (x < 1000) NOT VALID;
INSERT INTO c (state, kind, n, tags, t) VALUES ('new', 'abc', 15, '{a,b}', 'a''\'), ('paid', NULL, 3, NULL, NULL);
CREATE DOMAIN email AS varchar(100) COLLATE "C" NOT NULL DEFAULT 'a@b' CHECK (VALUE LIKE '%@%' AND VALUE NOT IN ('x@y', 'z@z'));
CREATE DOMAIN codes AS char(2)[] CHECK (array_length(VALUE, 1) BETWEEN 1 AND 3 AND 'xx' <> ALL (VALUE));
CREATE DOMAIN narrower AS email CONSTRAINT short CHECK (length(VALUE) < 50);
CREATE TYPE pair AS (a int, b email);
CREATE DOMAIN ordered AS pair CHECK ((VALUE).a > 0);
CREATE TABLE d (e email, n narrower, cs codes DEFAULT '{aa}', p pair, o ordered);
INSERT INTO d VALUES ('a@b', 'c@d', '{aa,bb}', '(1,x@z)', '(2,q@q)');
