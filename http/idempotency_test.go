package http_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"millrace"
	orderhttp "millrace/http"
)

func TestAReplayGetsTheFirstAnswerByteForByte(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").is(http.StatusCreated)
	require.Empty(t, first.header.Get("Idempotency-Replayed"))
	id := into[orderhttp.Order](first).ID
	b.pay(id)
	b.ship(id)
	_, err := b.store.PutProduct(t.Context(), millrace.Product{SKU: "TEA-001", Name: "Dear tea", PriceMinor: 9999, Currency: "EUR", Active: true})
	require.NoError(t, err)
	spaced := strings.ReplaceAll(strings.ReplaceAll(teaOrder, ":", " : "), ",", ",\n\t")
	reordered := `{"payment_method":"pm_ok","ship_to":{"country":"GB","city":"Bath","line1":"1 Mill Lane","name":"Ada"},"lines":[{"quantity":2,"sku":"TEA-001"}]}`
	for name, body := range map[string]string{"the same bytes": teaOrder, "other white space": spaced, "other order of fields": reordered} {
		again := b.call(ada, "POST", "/v1/orders", body, "Idempotency-Key", "k").is(http.StatusCreated)
		require.Equal(t, string(first.body), string(again.body), name)
		require.Equal(t, first.header.Get("Location"), again.header.Get("Location"), name)
		require.Equal(t, "true", again.header.Get("Idempotency-Replayed"), name)
	}
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders"))
}

func TestAKeyUsedForAnotherRequestIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").is(http.StatusCreated)
	before := b.rows()
	for name, body := range map[string]string{
		"another quantity":     strings.Replace(teaOrder, `"quantity":2`, `"quantity":3`, 1),
		"another method":       strings.Replace(teaOrder, "pm_ok", "pm_slow", 1),
		"another address":      strings.Replace(teaOrder, "Bath", "York", 1),
		"an e-mail of its own": strings.Replace(teaOrder, `"lines"`, `"email":"a@b.c","lines"`, 1),
	} {
		p := b.call(ada, "POST", "/v1/orders", body, "Idempotency-Key", "k").problem(http.StatusUnprocessableEntity, millrace.CodeKeyReused)
		require.Contains(t, p.Detail, "new key", name)
	}
	require.Equal(t, before, b.rows())
}

func TestAKeyBelongsToItsCustomer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hers := into[orderhttp.Order](b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").is(http.StatusCreated)).ID
	his := into[orderhttp.Order](b.call(bob, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").is(http.StatusCreated)).ID
	require.NotEqual(t, hers, his)
}

func TestAKeyOfAnyPrintableCharactersWorks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, key := range []string{"a", "a b", `!"#$%&'()*+,-./:;<=>?@[\]^_{|}~`, strings.Repeat("k", 255)} {
		first := b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", key).is(http.StatusCreated)
		again := b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", key).is(http.StatusCreated)
		require.Equal(t, string(first.body), string(again.body), key)
	}
}

// hold keeps intake from committing, by the row that it locks last, until the returned function is called.
func (b *testBundle) hold() (release func()) {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), b.url)
	require.NoError(b.t, err)
	tx, err := conn.Begin(b.t.Context())
	require.NoError(b.t, err)
	_, err = tx.Exec(b.t.Context(), "SELECT value FROM counters WHERE name = 'received' FOR UPDATE")
	require.NoError(b.t, err)
	release = sync.OnceFunc(func() {
		ctx := context.WithoutCancel(b.t.Context())
		_ = tx.Rollback(ctx)
		_ = conn.Close(ctx)
	})
	b.t.Cleanup(release)
	return release
}

// whenLocked waits until some connection of the test's database waits for a lock.
func (b *testBundle) whenLocked() {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		return b.count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") > 0
	}, patience, poll)
}

func TestARepeatWhileTheFirstIsInFlightIsToldToWait(t *testing.T) {
	t.Parallel()
	b := setup(t)
	release := b.hold()
	first := make(chan *reply)
	go func() { first <- b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k") }()
	b.whenLocked()
	second := b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k")
	second.problem(http.StatusConflict, millrace.CodeInFlight)
	require.NotEmpty(t, second.header.Get("Retry-After"))
	release()
	answer := (<-first).is(http.StatusCreated)
	third := b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").is(http.StatusCreated)
	require.Equal(t, string(answer.body), string(third.body))
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders"))
}

func TestFiftyPostsOfOneKeyMakeOneOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	answers := make([]*reply, 50)
	var running sync.WaitGroup
	for i := range answers {
		running.Go(func() { answers[i] = b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k") })
	}
	running.Wait()
	final := b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").is(http.StatusCreated)
	for _, a := range answers {
		if a.status == http.StatusConflict {
			a.problem(http.StatusConflict, millrace.CodeInFlight)
			continue
		}
		require.Equal(t, string(final.is(http.StatusCreated).body), string(a.is(http.StatusCreated).body))
	}
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders"))
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM river.river_job"))
}

func TestARequestWhoseClientWentAwayIsSettledByTheSameKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	release := b.hold()
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		resp, err := b.client.Do(b.request(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").WithContext(ctx))
		if err == nil {
			err = errors.Join(errors.New("answered"), resp.Body.Close())
		}
		gone <- err
	}()
	b.whenLocked()
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled)
	release()
	var last *reply
	require.Eventually(t, func() bool {
		last = b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k")
		return last.status == http.StatusCreated
	}, patience, poll)
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders"))
	require.Equal(t, into[orderhttp.Order](last).Links.Self, last.header.Get("Location"))
}

func TestAReplayAfterErasureHoldsNoPersonalData(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").is(http.StatusCreated)
	o := into[orderhttp.Order](first)
	etag := b.call(ada, "GET", o.Links.Self, "").header.Get("ETag")
	b.call(ada, "DELETE", "/v1/customers/me", "").is(http.StatusNoContent)
	again := b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").is(http.StatusCreated)
	for _, personal := range []string{"ada@example.com", "Mill Lane", "Bath"} {
		require.Contains(t, string(first.body), personal)
		require.NotContains(t, string(again.body), personal)
	}
	require.Equal(t, o.ID, into[orderhttp.Order](again).ID)
	require.Equal(t, o.TotalMinor, into[orderhttp.Order](again).TotalMinor)
	b.call(ada, "GET", o.Links.Self, "", "If-None-Match", etag).is(http.StatusOK) // what a client keeps is out of date
}

func TestARefundIsMadeOnceForItsKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada)
	path := fmt.Sprintf("/v1/orders/%s/refunds", id)
	b.call(olga, "POST", path, `{"amount_minor":100}`, "Idempotency-Key", "r1").problem(http.StatusConflict, millrace.CodeConflict) // nothing was taken yet
	b.pay(id)
	for range 3 {
		b.call(olga, "POST", path, `{"amount_minor":100}`, "Idempotency-Key", "r1").is(http.StatusAccepted)
	}
	refunds := "SELECT count(*) FROM payment_transactions WHERE kind = 'refund' AND order_id = $1"
	require.EqualValues(t, 1, b.count(refunds, id))
	b.call(olga, "POST", path, `{"amount_minor":101}`, "Idempotency-Key", "r1").problem(http.StatusUnprocessableEntity, millrace.CodeKeyReused)
	b.call(olga, "POST", path, `{"amount_minor":2401}`, "Idempotency-Key", "r2").problem(http.StatusConflict, millrace.CodeConflict)
	b.call(olga, "POST", path, "", "Idempotency-Key", uuid.NewString()).is(http.StatusAccepted) // the rest
	require.EqualValues(t, 2500, b.count("SELECT sum(amount_minor) FROM payment_transactions WHERE kind = 'refund' AND order_id = $1", id))
}
