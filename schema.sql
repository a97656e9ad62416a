-- The whole schema as it stands, read by sqlc. db/migrations leads to exactly this; a test compares the two.
-- River's own tables live in the schema "river", the gate's in "gate", the simulated providers' in "simulated": none is listed here.

CREATE TABLE customers (
    id          uuid PRIMARY KEY,
    subject     text NOT NULL UNIQUE,
    email       text NOT NULL DEFAULT '',
    name        text NOT NULL DEFAULT '',
    phone       text NOT NULL DEFAULT '',
    address     json,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    erased_at   timestamptz
);

CREATE TABLE products (
    sku         text PRIMARY KEY,
    name        text NOT NULL,
    description text NOT NULL DEFAULT '',
    price_minor bigint NOT NULL CHECK (price_minor > 0),
    currency    char(3) NOT NULL,
    active      boolean NOT NULL DEFAULT true,
    updated_at  timestamptz NOT NULL
);

-- Stock, but for what shipped_stock has of it. What is reserved stays on hand until it ships. Nine tenths of a page are kept for what its levels become, so that few of their
-- versions need an entry in the index.
CREATE TABLE inventory_levels (
    sku      text NOT NULL REFERENCES products (sku),
    location text NOT NULL,
    on_hand  bigint NOT NULL,
    reserved bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (sku, location),
    CHECK (0 <= reserved AND reserved <= on_hand)
) WITH (fillfactor = 10);

-- What has shipped and is not taken off the levels yet, neither off on_hand nor off reserved: what is available is the same before and after. One
-- row for each transaction that shipped something, with as many elements in each array.
CREATE TABLE shipped_stock (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    skus       text[] NOT NULL,
    locations  text[] NOT NULL,
    quantities bigint[] NOT NULL
);

-- Stock as it is.
CREATE VIEW stock AS
SELECT l.sku, l.location, (l.on_hand - coalesce(s.quantity, 0))::bigint AS on_hand, (l.reserved - coalesce(s.quantity, 0))::bigint AS reserved
FROM inventory_levels l
LEFT JOIN (
    SELECT e.sku, e.location, sum(e.quantity) AS quantity
    FROM (SELECT unnest(skus) AS sku, unnest(locations) AS location, unnest(quantities) AS quantity FROM shipped_stock) e
    GROUP BY e.sku, e.location
) s ON s.sku = l.sku AND s.location = l.location;

-- Every change of on_hand that is not a shipment: with the consumed reservations it adds up to what is on hand.
CREATE TABLE inventory_adjustments (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku      text NOT NULL,
    location text NOT NULL,
    delta    bigint NOT NULL,
    actor    text NOT NULL,
    at       timestamptz NOT NULL
);

-- Counters that are locked to the end of the transaction that moves them, so that their values have no holes and follow the order of
-- commits: 'received' numbers the orders taken in, 'allocated' is the last of them that was offered stock, and 'catalogue' counts the
-- changes of products.
CREATE TABLE counters (
    name  text PRIMARY KEY,
    value bigint NOT NULL
) WITH (fillfactor = 10);

INSERT INTO counters (name, value) VALUES ('received', 0), ('allocated', 0), ('catalogue', 0);

-- Whoever changes a product, and by whatever way, tells those who remember what products cost.
CREATE FUNCTION count_catalogue_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'catalogue';
    RETURN NULL;
END
$$;

CREATE TRIGGER count_catalogue_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON products
    FOR EACH STATEMENT EXECUTE FUNCTION count_catalogue_change();

-- No index holds status or any other column that a common step changes, so that updates stay on their page (HOT). rare_status is null
-- on the way from pending to completed; an order that leaves that way is worth an index entry. revision counts the writes of the order and
-- of what belongs to it, with an event or without: who writes by what it has read finds it unchanged, or writes nothing.
CREATE TABLE orders (
    id                 uuid PRIMARY KEY,
    customer_id        uuid NOT NULL,
    received_seq       bigint NOT NULL UNIQUE,
    status             text NOT NULL,
    payment_status     text NOT NULL,
    fulfillment_status text NOT NULL,
    version            integer NOT NULL,
    currency           char(3) NOT NULL,
    total_minor        bigint NOT NULL CHECK (total_minor > 0),
    payment_method     text NOT NULL,
    email              text NOT NULL,
    ship_to            json,
    hold_reason        text NOT NULL DEFAULT '',
    placed_at          timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    rare_status        text GENERATED ALWAYS AS (CASE WHEN status NOT IN ('pending', 'processing', 'completed') THEN status END) STORED,
    revision           integer NOT NULL DEFAULT 0
) WITH (fillfactor = 60, autovacuum_vacuum_cost_delay = 10);

CREATE INDEX orders_customer_id_id_idx ON orders (customer_id, id);
CREATE INDEX orders_rare_status_id_idx ON orders (rare_status, id) WHERE rare_status IS NOT NULL;

CREATE TABLE order_lines (
    order_id         uuid NOT NULL,
    n                integer NOT NULL,
    sku              text NOT NULL,
    name             text NOT NULL,
    quantity         integer NOT NULL CHECK (quantity > 0),
    unit_price_minor bigint NOT NULL,
    total_minor      bigint NOT NULL,
    PRIMARY KEY (order_id, n)
) WITH (autovacuum_vacuum_cost_delay = 10);

-- Append-only: the audit log and what watchers are sent. tx is the writing transaction's id, by which streams of many orders resume.
CREATE TABLE order_events (
    order_id           uuid NOT NULL,
    version            integer NOT NULL,
    type               text NOT NULL,
    status             text NOT NULL,
    payment_status     text NOT NULL,
    fulfillment_status text NOT NULL,
    data               json NOT NULL,
    actor              text NOT NULL,
    at                 timestamptz NOT NULL,
    customer_id        uuid NOT NULL,
    tx                 bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
    PRIMARY KEY (order_id, version)
) WITH (autovacuum_vacuum_cost_delay = 10);

CREATE INDEX order_events_tx_idx ON order_events (tx);

CREATE TABLE reservations (
    order_id uuid NOT NULL,
    sku      text NOT NULL,
    location text NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    state    text NOT NULL,
    PRIMARY KEY (order_id, sku, location)
) WITH (fillfactor = 80, autovacuum_vacuum_cost_delay = 10);

CREATE TABLE payment_transactions (
    order_id     uuid NOT NULL,
    n            integer NOT NULL,
    kind         text NOT NULL,
    state        text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    with_capture boolean NOT NULL,
    key          text NOT NULL,
    gateway      text NOT NULL,
    reference    text NOT NULL,
    code         text NOT NULL,
    requested_at timestamptz NOT NULL,
    expires_at   timestamptz,
    PRIMARY KEY (order_id, n)
) WITH (fillfactor = 80, autovacuum_vacuum_cost_delay = 10);

-- The last line of defence for "a card is never charged twice": whatever the code does, an order holds one capture.
CREATE UNIQUE INDEX payment_transactions_one_capture_idx ON payment_transactions (order_id) WHERE kind = 'capture' AND state = 'succeeded';

CREATE TABLE shipments (
    order_id        uuid PRIMARY KEY,
    id              uuid NOT NULL,
    state           text NOT NULL,
    carrier         text NOT NULL,
    reference       text NOT NULL,
    service         text NOT NULL,
    tracking_number text NOT NULL,
    label_url       text NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_cost_delay = 10);

-- What a customer was answered under a key. response is null once the customer's personal data was erased.
CREATE TABLE idempotency_keys (
    principal    text NOT NULL,
    key          text NOT NULL,
    request_hash bytea NOT NULL,
    order_id     uuid NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (principal, key)
) WITH (autovacuum_vacuum_cost_delay = 10, autovacuum_vacuum_insert_threshold = -1);

CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys USING brin (created_at);

-- What no condition compares is not sampled; of the rest a tenth of the rows is, but for sku.
ALTER TABLE orders
    ALTER COLUMN id SET STATISTICS 10, ALTER COLUMN customer_id SET STATISTICS 10, ALTER COLUMN received_seq SET STATISTICS 10,
    ALTER COLUMN status SET STATISTICS 10, ALTER COLUMN payment_status SET STATISTICS 10, ALTER COLUMN fulfillment_status SET STATISTICS 10,
    ALTER COLUMN placed_at SET STATISTICS 10, ALTER COLUMN rare_status SET STATISTICS 10,
    ALTER COLUMN version SET STATISTICS 0, ALTER COLUMN currency SET STATISTICS 0, ALTER COLUMN total_minor SET STATISTICS 0,
    ALTER COLUMN payment_method SET STATISTICS 0, ALTER COLUMN email SET STATISTICS 0, ALTER COLUMN ship_to SET STATISTICS 0,
    ALTER COLUMN hold_reason SET STATISTICS 0, ALTER COLUMN updated_at SET STATISTICS 0, ALTER COLUMN revision SET STATISTICS 0;
ALTER TABLE order_lines
    ALTER COLUMN order_id SET STATISTICS 10, ALTER COLUMN n SET STATISTICS 10,
    ALTER COLUMN name SET STATISTICS 0, ALTER COLUMN quantity SET STATISTICS 0,
    ALTER COLUMN unit_price_minor SET STATISTICS 0, ALTER COLUMN total_minor SET STATISTICS 0;
ALTER TABLE order_events
    ALTER COLUMN order_id SET STATISTICS 10, ALTER COLUMN version SET STATISTICS 10, ALTER COLUMN customer_id SET STATISTICS 10,
    ALTER COLUMN tx SET STATISTICS 10,
    ALTER COLUMN type SET STATISTICS 0, ALTER COLUMN status SET STATISTICS 0, ALTER COLUMN payment_status SET STATISTICS 0,
    ALTER COLUMN fulfillment_status SET STATISTICS 0, ALTER COLUMN data SET STATISTICS 0, ALTER COLUMN actor SET STATISTICS 0,
    ALTER COLUMN at SET STATISTICS 0;
ALTER TABLE idempotency_keys
    ALTER COLUMN principal SET STATISTICS 10, ALTER COLUMN key SET STATISTICS 10, ALTER COLUMN created_at SET STATISTICS 10,
    ALTER COLUMN request_hash SET STATISTICS 0, ALTER COLUMN order_id SET STATISTICS 0;
