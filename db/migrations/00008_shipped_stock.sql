-- What has shipped is taken off the levels of stock later, many orders at a time: see docs/decisions/0017.

-- +goose Up
CREATE TABLE shipped_stock (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    skus       text[] NOT NULL,
    locations  text[] NOT NULL,
    quantities bigint[] NOT NULL
);

CREATE VIEW stock AS
SELECT l.sku, l.location, (l.on_hand - coalesce(s.quantity, 0))::bigint AS on_hand, (l.reserved - coalesce(s.quantity, 0))::bigint AS reserved
FROM inventory_levels l
LEFT JOIN (
    SELECT e.sku, e.location, sum(e.quantity) AS quantity
    FROM (SELECT unnest(skus) AS sku, unnest(locations) AS location, unnest(quantities) AS quantity FROM shipped_stock) e
    GROUP BY e.sku, e.location
) s ON s.sku = l.sku AND s.location = l.location;

-- +goose Down
UPDATE inventory_levels l SET on_hand = s.on_hand, reserved = s.reserved FROM stock s WHERE s.sku = l.sku AND s.location = l.location;
DROP VIEW stock;
DROP TABLE shipped_stock;
