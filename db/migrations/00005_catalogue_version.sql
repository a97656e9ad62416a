-- Processes remember what products cost, and intake tells by this counter whether it still holds: see docs/decisions/0011.

-- +goose Up
INSERT INTO counters (name, value) VALUES ('catalogue', 0);

-- +goose StatementBegin
CREATE FUNCTION count_catalogue_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'catalogue';
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER count_catalogue_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON products
    FOR EACH STATEMENT EXECUTE FUNCTION count_catalogue_change();

-- +goose Down
DROP TRIGGER count_catalogue_change ON products;
DROP FUNCTION count_catalogue_change();
DELETE FROM counters WHERE name = 'catalogue';
