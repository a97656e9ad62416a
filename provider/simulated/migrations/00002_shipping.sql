-- +goose Up

-- A label, or the refusal of one. A refusal binds nobody: the next request under its key takes its place.
CREATE TABLE simulated.labels (
    reference    text PRIMARY KEY,
    key          text NOT NULL UNIQUE,
    order_id     uuid NOT NULL,
    country      text NOT NULL,
    state        text NOT NULL CHECK (state IN ('purchased', 'canceled', 'declined')),
    code         text NOT NULL,
    purchased_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 90);

-- A request to pick and pack, its refusal, or (canceled) the word that it must not be worked should it ever come.
CREATE TABLE simulated.fulfillments (
    key          text PRIMARY KEY,
    order_id     uuid, -- null of one that was canceled before it came
    state        text NOT NULL CHECK (state IN ('accepted', 'canceled', 'declined')),
    code         text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 90);

-- Where a parcel is: only time moves it.
CREATE FUNCTION simulated.parcel_state(p_purchased_at timestamptz, p_transit interval, p_deliver interval) RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT CASE
        WHEN clock_timestamp() >= p_purchased_at + p_deliver THEN 'delivered'
        WHEN clock_timestamp() >= p_purchased_at + p_transit THEN 'in_transit'
        ELSE 'purchased' END
$$;

-- Buys a label, unless p_code says why not.
-- +goose StatementBegin
CREATE FUNCTION simulated.buy_label(
    p_key text, p_order uuid, p_country text, p_reference text, p_code text,
    OUT o_outcome text, OUT o_reference text, OUT o_code text
) LANGUAGE plpgsql AS $$
DECLARE
    l simulated.labels;
BEGIN
    -- A call that finds its key taken by one still running waits here for that one's end.
    INSERT INTO simulated.labels AS x (reference, key, order_id, country, state, code)
    VALUES (p_reference, p_key, p_order, p_country, CASE WHEN p_code = '' THEN 'purchased' ELSE 'declined' END, p_code)
    ON CONFLICT (key) DO UPDATE SET
        country = excluded.country, state = excluded.state, code = excluded.code, purchased_at = excluded.purchased_at
    WHERE x.state = 'declined' AND x.order_id = p_order
    RETURNING * INTO l;
    IF NOT FOUND THEN
        SELECT * INTO STRICT l FROM simulated.labels WHERE key = p_key;
    END IF;
    IF l.order_id <> p_order THEN
        o_outcome := 'declined'; o_code := 'idempotency_mismatch'; o_reference := '';
    ELSIF l.state = 'declined' THEN
        o_outcome := 'declined'; o_code := l.code; o_reference := '';
    ELSE
        -- as it was first answered, even if the label was given back since
        o_outcome := 'approved'; o_code := ''; o_reference := l.reference;
    END IF;
    INSERT INTO simulated.calls (provider, operation, key, reference, outcome, code)
    VALUES ('carrier', 'buy', p_key, o_reference, o_outcome, o_code);
END $$;
-- +goose StatementEnd

-- Tells what became of the label asked for under a key.
-- +goose StatementBegin
CREATE FUNCTION simulated.find_label(p_key text, OUT o_outcome text, OUT o_reference text, OUT o_code text) LANGUAGE plpgsql AS $$
DECLARE
    l simulated.labels;
BEGIN
    SELECT * INTO l FROM simulated.labels WHERE key = p_key;
    o_outcome := CASE WHEN l.state IS NULL THEN 'not_found' WHEN l.state = 'purchased' THEN 'approved' ELSE 'declined' END;
    o_reference := CASE WHEN o_outcome = 'approved' THEN l.reference ELSE '' END;
    o_code := CASE WHEN l.state = 'canceled' THEN 'canceled' ELSE coalesce(l.code, '') END;
    INSERT INTO simulated.calls (provider, operation, key, reference, outcome, code)
    VALUES ('carrier', 'get', p_key, o_reference, o_outcome, o_code);
END $$;
-- +goose StatementEnd

-- Tells where a parcel is, and in how many microseconds that changes (0: never). No row if there is no such parcel.
-- +goose StatementBegin
CREATE FUNCTION simulated.track_parcel(
    p_reference text, p_transit interval, p_deliver interval, OUT o_state text, OUT o_check_after bigint
) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    l simulated.labels;
    next_at timestamptz;
BEGIN
    SELECT * INTO l FROM simulated.labels WHERE reference = p_reference AND state <> 'declined';
    -- a label that was given back stays what it was: not handed over
    o_state := CASE WHEN NOT FOUND THEN 'unknown' WHEN l.state = 'canceled' THEN 'purchased'
        ELSE simulated.parcel_state(l.purchased_at, p_transit, p_deliver) END;
    next_at := CASE
        WHEN l.state = 'canceled' THEN NULL
        WHEN o_state = 'purchased' THEN l.purchased_at + p_transit
        WHEN o_state = 'in_transit' THEN l.purchased_at + p_deliver END;
    o_check_after := CASE WHEN next_at IS NULL THEN 0
        ELSE greatest(1, ceil(extract(epoch FROM next_at - clock_timestamp()) * 1000000)::bigint) END;
    INSERT INTO simulated.calls (provider, operation, key, reference, outcome, code)
    VALUES ('carrier', 'track', '', p_reference, o_state, '');
    IF l.reference IS NOT NULL THEN
        RETURN NEXT;
    END IF;
END $$;
-- +goose StatementEnd

-- Takes a label back that was not used.
-- +goose StatementBegin
CREATE FUNCTION simulated.cancel_label(
    p_reference text, p_transit interval, p_deliver interval, OUT o_outcome text, OUT o_reference text, OUT o_code text
) LANGUAGE plpgsql AS $$
DECLARE
    l simulated.labels;
BEGIN
    SELECT * INTO l FROM simulated.labels WHERE reference = p_reference AND state <> 'declined' FOR UPDATE;
    o_code := CASE
        WHEN NOT FOUND THEN 'unknown_reference'
        WHEN l.state = 'purchased' AND simulated.parcel_state(l.purchased_at, p_transit, p_deliver) <> 'purchased' THEN 'in_transit'
        ELSE '' END;
    o_outcome := CASE WHEN o_code = '' THEN 'approved' ELSE 'declined' END;
    o_reference := p_reference;
    IF o_outcome = 'approved' AND l.state = 'purchased' THEN
        UPDATE simulated.labels SET state = 'canceled' WHERE reference = p_reference;
    END IF;
    INSERT INTO simulated.calls (provider, operation, key, reference, outcome, code)
    VALUES ('carrier', 'cancel', coalesce(l.key, ''), p_reference, o_outcome, o_code);
END $$;
-- +goose StatementEnd

-- Takes a request to pick and pack, unless p_code says why not.
-- +goose StatementBegin
CREATE FUNCTION simulated.fulfill(p_key text, p_order uuid, p_code text, OUT o_outcome text, OUT o_code text) LANGUAGE plpgsql AS $$
DECLARE
    f simulated.fulfillments;
BEGIN
    INSERT INTO simulated.fulfillments AS x (key, order_id, state, code)
    VALUES (p_key, p_order, CASE WHEN p_code = '' THEN 'accepted' ELSE 'declined' END, p_code)
    ON CONFLICT (key) DO UPDATE SET state = excluded.state, code = excluded.code, requested_at = excluded.requested_at
    WHERE x.state = 'declined' AND x.order_id = p_order
    RETURNING * INTO f;
    IF NOT FOUND THEN
        SELECT * INTO STRICT f FROM simulated.fulfillments WHERE key = p_key;
    END IF;
    o_code := CASE
        WHEN f.order_id <> p_order THEN 'idempotency_mismatch'
        WHEN f.order_id IS NULL THEN 'canceled'
        -- as it was first answered, even if it was canceled since
        ELSE f.code END;
    o_outcome := CASE WHEN o_code = '' THEN 'approved' ELSE 'declined' END;
    INSERT INTO simulated.calls (provider, operation, key, reference, outcome, code)
    VALUES ('warehouse', 'fulfill', p_key, '', o_outcome, o_code);
END $$;
-- +goose StatementEnd

-- Takes a request back. One that has not come yet is refused when it does, since it may be under way.
-- +goose StatementBegin
CREATE FUNCTION simulated.cancel_fulfillment(p_key text, OUT o_outcome text, OUT o_code text) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO simulated.fulfillments AS x (key, state, code) VALUES (p_key, 'canceled', 'canceled')
    ON CONFLICT (key) DO UPDATE SET state = 'canceled' WHERE x.state = 'accepted';
    o_outcome := 'approved'; o_code := '';
    INSERT INTO simulated.calls (provider, operation, key, reference, outcome, code)
    VALUES ('warehouse', 'cancel', p_key, '', o_outcome, o_code);
END $$;
-- +goose StatementEnd
