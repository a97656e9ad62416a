package simulated_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace"
	"millrace/db/dbtest"
	"millrace/provider/simulated"
)

func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }

var template = dbtest.Template{Name: "simulated", Version: simulated.SchemaVersion(), Migrate: simulated.Migrate}

// testBundle is a database with providers on it, and a pool to look at what they wrote.
type testBundle struct {
	*simulated.Providers
	url  string
	pool *pgxpool.Pool
}

func setup(t testing.TB, cfg simulated.Config) *testBundle {
	t.Helper()
	b := &testBundle{url: dbtest.New(t, template)}
	b.Providers = b.open(t, cfg)
	pool, err := pgxpool.New(t.Context(), b.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	b.pool = pool
	return b
}

// open makes providers as another process on the same database would.
func (b *testBundle) open(t testing.TB, cfg simulated.Config) *simulated.Providers {
	t.Helper()
	p, err := simulated.Open(t.Context(), b.url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// authorize is a request for 25.00 EUR of a new order.
func authorize(method string) millrace.PaymentRequest {
	order := uuid.Must(uuid.NewV7())
	return millrace.PaymentRequest{Key: order.String() + ":authorize:1", Kind: millrace.TransactionAuthorize, OrderID: order,
		Method: method, AmountMinor: 2500, Currency: "EUR"}
}

// untilCalled waits until the call under a key was decided for the nth time.
func (b *testBundle) untilCalled(t *testing.T, key string, n int) {
	t.Helper()
	for calls := 0; calls < n; {
		if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM simulated.calls WHERE key = $1`, key).Scan(&calls); err != nil {
			t.Fatal(err)
		}
	}
}

func (b *testBundle) entry(t *testing.T, order uuid.UUID) simulated.Entry {
	t.Helper()
	ledger, err := simulated.Ledger(t.Context(), b.pool)
	if err != nil {
		t.Fatal(err)
	}
	return ledger[order]
}

func (b *testBundle) wantEntry(t *testing.T, order uuid.UUID, want simulated.Entry) {
	t.Helper()
	if got := b.entry(t, order); got != want {
		t.Errorf("the ledger has %+v, want %+v", got, want)
	}
}
