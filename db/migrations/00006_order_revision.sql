-- Counts the writes of an order, with or without an event, so that a step can write what it knows without a look: see docs/decisions/0014.

-- +goose Up
ALTER TABLE orders ADD COLUMN revision integer NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE orders DROP COLUMN revision;
