-- Levels of stock that stay cheap to find while an old snapshot is held: see docs/decisions/0016.

-- +goose Up
ALTER TABLE inventory_levels SET (fillfactor = 10);

-- +goose Down
ALTER TABLE inventory_levels SET (fillfactor = 50);
