-- The answer to an order is made of the order, for a repeat as well: see docs/decisions/0021.

-- +goose Up
ALTER TABLE idempotency_keys DROP COLUMN response;

-- +goose Down
ALTER TABLE idempotency_keys ADD COLUMN response bytea;
ALTER TABLE idempotency_keys ALTER COLUMN response SET STATISTICS 0;
