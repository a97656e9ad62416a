-- +goose Up

-- Every call, answered or not. Written thousands of times a second and read by people and tests alone: so it has no index.
CREATE TABLE simulated.calls (
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    provider  text NOT NULL,
    operation text NOT NULL,
    key       text NOT NULL,
    reference text NOT NULL,
    outcome   text NOT NULL,
    code      text NOT NULL
);

-- A payment. Only authorizing makes one, and only a row lock on it changes it.
CREATE TABLE simulated.charges (
    reference       text PRIMARY KEY,
    order_id        uuid NOT NULL,
    method          text NOT NULL,
    currency        text NOT NULL,
    amount_minor    bigint NOT NULL CHECK (amount_minor >= 0),
    with_capture    boolean NOT NULL,
    state           text NOT NULL CHECK (state IN ('requires_action', 'authorized', 'captured', 'voided', 'declined')),
    action_required boolean NOT NULL,
    decision        text CHECK (decision IN ('confirmed', 'declined')), -- the buyer's, null before there is one
    captures        integer NOT NULL CHECK (captures IN (0, 1)),
    captured_minor  bigint NOT NULL CHECK (captured_minor BETWEEN 0 AND amount_minor),
    refunded_minor  bigint NOT NULL DEFAULT 0 CHECK (refunded_minor BETWEEN 0 AND captured_minor),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((captures = 1) = (state = 'captured')),
    CHECK (captures = 1 OR captured_minor = 0),
    CHECK (action_required OR decision IS NULL)
) WITH (fillfactor = 80);

-- The first answer to each key, which later calls under it are given. 'retry' is no answer yet: tries counts on.
CREATE TABLE simulated.payment_requests (
    key          text PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('authorize', 'capture', 'void', 'refund')),
    order_id     uuid NOT NULL,
    method       text NOT NULL, -- of an authorize, else ''
    reference    text NOT NULL,
    amount_minor bigint NOT NULL,
    currency     text NOT NULL,
    with_capture boolean NOT NULL,
    outcome      text NOT NULL CHECK (outcome IN ('approved', 'requires_action', 'declined', 'retry')),
    code         text NOT NULL,
    tries        integer NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Authorizes, and captures if asked to. What the payment method leads to is passed in: p_outcome and p_code, after p_failures calls
-- that are answered with 'retry'.
-- +goose StatementBegin
CREATE FUNCTION simulated.authorize(
    p_key text, p_order uuid, p_method text, p_amount bigint, p_currency text, p_with_capture boolean,
    p_reference text, p_outcome text, p_code text, p_failures integer,
    OUT o_outcome text, OUT o_reference text, OUT o_captured boolean, OUT o_code text
) LANGUAGE plpgsql AS $$
DECLARE
    q simulated.payment_requests;
    decided boolean;
BEGIN
    -- A call that finds its key taken by one still running waits here for that one's end.
    INSERT INTO simulated.payment_requests AS r
        (key, kind, order_id, method, reference, amount_minor, currency, with_capture, outcome, code)
    VALUES (p_key, 'authorize', p_order, p_method,
        CASE WHEN p_failures = 0 AND p_outcome <> 'declined' THEN p_reference ELSE '' END, p_amount, p_currency, p_with_capture,
        CASE WHEN p_failures > 0 THEN 'retry' ELSE p_outcome END,
        CASE WHEN p_failures > 0 THEN 'try_again' ELSE p_code END)
    ON CONFLICT (key) DO UPDATE SET
        tries = r.tries + 1,
        outcome = CASE WHEN r.tries >= p_failures THEN p_outcome ELSE r.outcome END,
        code = CASE WHEN r.tries >= p_failures THEN p_code ELSE r.code END,
        reference = CASE WHEN r.tries >= p_failures AND p_outcome <> 'declined' THEN p_reference ELSE '' END
    WHERE r.outcome = 'retry'
        AND (r.kind, r.order_id, r.method, r.amount_minor, r.currency, r.with_capture)
            = ('authorize', p_order, p_method, p_amount, p_currency, p_with_capture)
    RETURNING * INTO q;
    decided := FOUND;
    IF NOT decided THEN
        SELECT * INTO STRICT q FROM simulated.payment_requests WHERE key = p_key;
    END IF;

    IF (q.kind, q.order_id, q.method, q.amount_minor, q.currency, q.with_capture)
            IS DISTINCT FROM ('authorize', p_order, p_method, p_amount, p_currency, p_with_capture) THEN
        o_outcome := 'declined'; o_code := 'idempotency_mismatch'; o_reference := ''; o_captured := false;
    ELSE
        o_outcome := q.outcome; o_code := q.code; o_reference := q.reference;
        o_captured := q.outcome = 'approved' AND q.with_capture;
        IF decided AND q.outcome IN ('approved', 'requires_action') THEN
            INSERT INTO simulated.charges (reference, order_id, method, currency, amount_minor, with_capture, state, action_required,
                captures, captured_minor)
            VALUES (q.reference, p_order, p_method, p_currency, p_amount, p_with_capture,
                CASE WHEN q.outcome = 'requires_action' THEN 'requires_action' WHEN o_captured THEN 'captured' ELSE 'authorized' END,
                q.outcome = 'requires_action', o_captured::integer, CASE WHEN o_captured THEN p_amount ELSE 0 END);
        END IF;
    END IF;
    INSERT INTO simulated.calls (provider, operation, key, reference, outcome, code)
    VALUES ('gateway', 'authorize', p_key, o_reference, o_outcome, o_code);
END $$;
-- +goose StatementEnd

-- Captures, voids or refunds a payment.
-- +goose StatementBegin
CREATE FUNCTION simulated.settle(
    p_kind text, p_key text, p_order uuid, p_reference text, p_amount bigint, p_currency text,
    OUT o_outcome text, OUT o_reference text, OUT o_captured boolean, OUT o_code text
) LANGUAGE plpgsql AS $$
DECLARE
    c simulated.charges;
    q simulated.payment_requests;
BEGIN
    o_reference := p_reference;
    LOOP
        -- Whatever happens to one payment happens one after another. The key is read once the lock is held, so that a call which
        -- waited for another under the same key finds its answer.
        SELECT * INTO c FROM simulated.charges WHERE reference = p_reference FOR UPDATE;
        SELECT * INTO q FROM simulated.payment_requests WHERE key = p_key;
        IF FOUND THEN
            IF (q.kind, q.order_id, q.reference, q.amount_minor, q.currency)
                    IS DISTINCT FROM (p_kind, p_order, p_reference, p_amount, p_currency) THEN
                o_outcome := 'declined'; o_code := 'idempotency_mismatch';
            ELSE
                o_outcome := q.outcome; o_code := q.code;
            END IF;
            EXIT;
        END IF;

        o_code := CASE
            WHEN c.reference IS NULL OR c.order_id <> p_order THEN 'unknown_reference'
            WHEN c.currency <> p_currency THEN 'currency_mismatch'
            WHEN p_amount < 0 OR p_kind = 'refund' AND p_amount = 0 THEN 'invalid_amount'
            WHEN p_kind = 'capture' THEN CASE
                WHEN c.state = 'captured' THEN 'already_captured'
                WHEN c.state = 'voided' THEN 'voided'
                WHEN c.state <> 'authorized' THEN 'not_authorized'
                WHEN p_amount > c.amount_minor THEN 'amount_too_large'
                ELSE '' END
            WHEN p_kind = 'void' THEN CASE
                WHEN c.state = 'captured' THEN 'already_captured'
                WHEN p_amount NOT IN (0, c.amount_minor) THEN 'amount_mismatch'
                ELSE '' END
            WHEN p_kind = 'refund' THEN CASE
                WHEN c.state <> 'captured' THEN 'not_captured'
                WHEN p_amount > c.captured_minor - c.refunded_minor THEN 'amount_too_large'
                ELSE '' END
            ELSE 'invalid_request' END;
        o_outcome := CASE WHEN o_code = '' THEN 'approved' ELSE 'declined' END;

        INSERT INTO simulated.payment_requests (key, kind, order_id, method, reference, amount_minor, currency, with_capture, outcome, code)
        VALUES (p_key, p_kind, p_order, '', p_reference, p_amount, p_currency, false, o_outcome, o_code)
        ON CONFLICT (key) DO NOTHING;
        -- The key was taken meanwhile for another payment: nothing is changed yet, so answer as that call demands.
        CONTINUE WHEN NOT FOUND;

        IF o_outcome = 'approved' THEN
            UPDATE simulated.charges SET
                state = CASE p_kind
                    WHEN 'capture' THEN 'captured'
                    WHEN 'void' THEN CASE WHEN state = 'declined' THEN state ELSE 'voided' END
                    ELSE state END,
                captures = captures + (p_kind = 'capture')::integer,
                captured_minor = captured_minor + CASE WHEN p_kind = 'capture' THEN p_amount ELSE 0 END,
                refunded_minor = refunded_minor + CASE WHEN p_kind = 'refund' THEN p_amount ELSE 0 END,
                updated_at = clock_timestamp()
            WHERE reference = p_reference;
        END IF;
        EXIT;
    END LOOP;
    o_captured := p_kind = 'capture' AND o_outcome = 'approved';
    INSERT INTO simulated.calls (provider, operation, key, reference, outcome, code)
    VALUES ('gateway', p_kind, p_key, o_reference, o_outcome, o_code);
END $$;
-- +goose StatementEnd

-- Tells what became of the call made under a key, as it stands now.
-- +goose StatementBegin
CREATE FUNCTION simulated.find_payment(
    p_key text, OUT o_outcome text, OUT o_reference text, OUT o_captured boolean, OUT o_code text
) LANGUAGE plpgsql AS $$
DECLARE
    q simulated.payment_requests;
    c simulated.charges;
BEGIN
    SELECT * INTO q FROM simulated.payment_requests WHERE key = p_key;
    o_outcome := coalesce(q.outcome, 'not_found');
    o_reference := coalesce(q.reference, '');
    o_code := coalesce(q.code, '');
    IF o_outcome = 'requires_action' THEN
        SELECT * INTO STRICT c FROM simulated.charges WHERE reference = q.reference;
        IF c.decision = 'confirmed' THEN
            o_outcome := 'approved';
        ELSIF c.decision = 'declined' THEN
            o_outcome := 'declined'; o_code := 'authentication_failed';
        ELSIF c.state = 'voided' THEN
            o_outcome := 'declined'; o_code := 'abandoned';
        END IF;
    END IF;
    o_captured := o_outcome = 'approved' AND (q.kind = 'capture' OR q.with_capture);
    INSERT INTO simulated.calls (provider, operation, key, reference, outcome, code)
    VALUES ('gateway', 'get', p_key, o_reference, o_outcome, o_code);
END $$;
-- +goose StatementEnd

-- Records what the buyer decided about a payment that waits for it. Once decided or voided it stays so. Answers the payment as it
-- stands then; no row if none of that reference ever waited for a buyer.
-- +goose StatementBegin
CREATE FUNCTION simulated.decide_payment(p_reference text, p_decision text) RETURNS SETOF simulated.charges LANGUAGE plpgsql AS $$
DECLARE
    c simulated.charges;
BEGIN
    SELECT * INTO c FROM simulated.charges WHERE reference = p_reference AND action_required FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF c.state = 'requires_action' THEN
        UPDATE simulated.charges SET
            decision = p_decision,
            state = CASE WHEN p_decision = 'declined' THEN 'declined' WHEN with_capture THEN 'captured' ELSE 'authorized' END,
            captures = (p_decision = 'confirmed' AND with_capture)::integer,
            captured_minor = CASE WHEN p_decision = 'confirmed' AND with_capture THEN amount_minor ELSE 0 END,
            updated_at = clock_timestamp()
        WHERE reference = p_reference
        RETURNING * INTO c;
    END IF;
    INSERT INTO simulated.calls (provider, operation, key, reference, outcome, code)
    VALUES ('gateway', p_decision, '', p_reference, c.state, '');
    RETURN NEXT c;
END $$;
-- +goose StatementEnd
