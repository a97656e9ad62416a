-- Vacuum and statistics take less of the processors from those who wait for an answer: see docs/decisions/0018.

-- +goose Up
-- A pause of 10 ms for each 200 pages, instead of 2 ms and of none for jobs.
ALTER TABLE orders SET (autovacuum_vacuum_cost_delay = 10);
ALTER TABLE order_lines SET (autovacuum_vacuum_cost_delay = 10);
ALTER TABLE order_events SET (autovacuum_vacuum_cost_delay = 10);
ALTER TABLE reservations SET (autovacuum_vacuum_cost_delay = 10);
ALTER TABLE payment_transactions SET (autovacuum_vacuum_cost_delay = 10);
ALTER TABLE shipments SET (autovacuum_vacuum_cost_delay = 10);
ALTER TABLE river.river_job SET (autovacuum_vacuum_cost_delay = 10);
-- Keys are removed within days, and vacuumed for it: not for being added as well.
ALTER TABLE idempotency_keys SET (autovacuum_vacuum_cost_delay = 10, autovacuum_vacuum_insert_threshold = -1);
-- What no condition compares is not sampled; of keys, which are wide, a tenth of the rows is.
ALTER TABLE orders
    ALTER COLUMN version SET STATISTICS 0, ALTER COLUMN currency SET STATISTICS 0, ALTER COLUMN total_minor SET STATISTICS 0,
    ALTER COLUMN payment_method SET STATISTICS 0, ALTER COLUMN email SET STATISTICS 0, ALTER COLUMN ship_to SET STATISTICS 0,
    ALTER COLUMN hold_reason SET STATISTICS 0, ALTER COLUMN updated_at SET STATISTICS 0, ALTER COLUMN revision SET STATISTICS 0;
ALTER TABLE order_lines
    ALTER COLUMN name SET STATISTICS 0, ALTER COLUMN quantity SET STATISTICS 0,
    ALTER COLUMN unit_price_minor SET STATISTICS 0, ALTER COLUMN total_minor SET STATISTICS 0;
ALTER TABLE order_events
    ALTER COLUMN type SET STATISTICS 0, ALTER COLUMN status SET STATISTICS 0, ALTER COLUMN payment_status SET STATISTICS 0,
    ALTER COLUMN fulfillment_status SET STATISTICS 0, ALTER COLUMN data SET STATISTICS 0, ALTER COLUMN actor SET STATISTICS 0,
    ALTER COLUMN at SET STATISTICS 0;
ALTER TABLE idempotency_keys
    ALTER COLUMN principal SET STATISTICS 10, ALTER COLUMN key SET STATISTICS 10, ALTER COLUMN created_at SET STATISTICS 10,
    ALTER COLUMN request_hash SET STATISTICS 0, ALTER COLUMN order_id SET STATISTICS 0, ALTER COLUMN response SET STATISTICS 0;
-- Conditions look into args, of which its statistics say nothing.
ALTER TABLE river.river_job
    ALTER COLUMN args SET STATISTICS 0, ALTER COLUMN attempted_by SET STATISTICS 0, ALTER COLUMN errors SET STATISTICS 0,
    ALTER COLUMN metadata SET STATISTICS 0, ALTER COLUMN tags SET STATISTICS 0;

-- +goose Down
ALTER TABLE orders RESET (autovacuum_vacuum_cost_delay);
ALTER TABLE order_lines RESET (autovacuum_vacuum_cost_delay);
ALTER TABLE order_events RESET (autovacuum_vacuum_cost_delay);
ALTER TABLE reservations RESET (autovacuum_vacuum_cost_delay);
ALTER TABLE payment_transactions RESET (autovacuum_vacuum_cost_delay);
ALTER TABLE shipments RESET (autovacuum_vacuum_cost_delay);
ALTER TABLE river.river_job SET (autovacuum_vacuum_cost_delay = 0);
ALTER TABLE idempotency_keys RESET (autovacuum_vacuum_cost_delay, autovacuum_vacuum_insert_threshold);
ALTER TABLE orders
    ALTER COLUMN version SET STATISTICS -1, ALTER COLUMN currency SET STATISTICS -1, ALTER COLUMN total_minor SET STATISTICS -1,
    ALTER COLUMN payment_method SET STATISTICS -1, ALTER COLUMN email SET STATISTICS -1, ALTER COLUMN ship_to SET STATISTICS -1,
    ALTER COLUMN hold_reason SET STATISTICS -1, ALTER COLUMN updated_at SET STATISTICS -1, ALTER COLUMN revision SET STATISTICS -1;
ALTER TABLE order_lines
    ALTER COLUMN name SET STATISTICS -1, ALTER COLUMN quantity SET STATISTICS -1,
    ALTER COLUMN unit_price_minor SET STATISTICS -1, ALTER COLUMN total_minor SET STATISTICS -1;
ALTER TABLE order_events
    ALTER COLUMN type SET STATISTICS -1, ALTER COLUMN status SET STATISTICS -1, ALTER COLUMN payment_status SET STATISTICS -1,
    ALTER COLUMN fulfillment_status SET STATISTICS -1, ALTER COLUMN data SET STATISTICS -1, ALTER COLUMN actor SET STATISTICS -1,
    ALTER COLUMN at SET STATISTICS -1;
ALTER TABLE idempotency_keys
    ALTER COLUMN principal SET STATISTICS -1, ALTER COLUMN key SET STATISTICS -1, ALTER COLUMN created_at SET STATISTICS -1,
    ALTER COLUMN request_hash SET STATISTICS -1, ALTER COLUMN order_id SET STATISTICS -1, ALTER COLUMN response SET STATISTICS -1;
ALTER TABLE river.river_job
    ALTER COLUMN args SET STATISTICS -1, ALTER COLUMN attempted_by SET STATISTICS -1, ALTER COLUMN errors SET STATISTICS -1,
    ALTER COLUMN metadata SET STATISTICS -1, ALTER COLUMN tags SET STATISTICS -1;
