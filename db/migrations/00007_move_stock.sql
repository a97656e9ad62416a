-- Moves of stock that stay cheap while an old snapshot is held: see docs/decisions/0016.

-- +goose Up
ALTER TABLE inventory_levels SET (fillfactor = 10);

-- +goose StatementBegin
CREATE FUNCTION move_stock(skus text[], locations text[], on_hands bigint[], reserveds bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    places tid[];
    place_on_hands bigint[];
    place_reserveds bigint[];
    moved integer;
BEGIN
    SELECT array_agg(x.ctid), array_agg(x.on_hand), array_agg(x.reserved) INTO places, place_on_hands, place_reserveds
    FROM (
        SELECT l.ctid, m.on_hand, m.reserved
        FROM unnest(skus, locations, on_hands, reserveds) AS m (sku, location, on_hand, reserved)
        JOIN inventory_levels l ON l.sku = m.sku AND l.location = m.location
        ORDER BY l.sku, l.location FOR UPDATE OF l
    ) x;
    UPDATE inventory_levels l SET on_hand = l.on_hand + m.on_hand, reserved = l.reserved + m.reserved
    FROM unnest(places, place_on_hands, place_reserveds) AS m (place, on_hand, reserved)
    WHERE l.ctid = m.place;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(skus) THEN
        RAISE EXCEPTION '% of % stock levels do not exist', cardinality(skus) - moved, cardinality(skus);
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE inventory_levels SET (fillfactor = 50);
DROP FUNCTION move_stock(text[], text[], bigint[], bigint[]);
