package simulated_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace"
	"millrace/provider/providertest"
	"millrace/provider/simulated"
)

// never is longer than any test: parcels stay where they are until a test moves them.
const never = 1000 * time.Hour

func TestGatewayConforms(t *testing.T) {
	t.Parallel()
	providertest.Gateway(t, func(t testing.TB) providertest.GatewayFixture {
		t.Helper()
		b := setup(t, simulated.Config{})
		return providertest.GatewayFixture{
			Gateway: b.Gateway(), Approved: "pm_ok", Declined: "pm_declined", Flaky: "pm_flaky", Lost: "pm_lost_answer", Action: "pm_3ds",
			Decide: func(ctx context.Context, reference string, confirm bool) error {
				decision := "decline"
				if confirm {
					decision = "confirm"
				}
				w := httptest.NewRecorder()
				b.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/simulated/payments/"+reference+"/"+decision, nil))
				if w.Code != http.StatusOK {
					return fmt.Errorf("%s: %d %s", decision, w.Code, w.Body)
				}
				return nil
			},
			Ledger: func(ctx context.Context, order uuid.UUID) (providertest.Ledger, error) {
				ledger, err := simulated.Ledger(ctx, b.pool)
				return providertest.Ledger(ledger[order]), err
			},
		}
	})
}

func TestCarrierConforms(t *testing.T) {
	t.Parallel()
	providertest.Carrier(t, func(t testing.TB) providertest.CarrierFixture {
		t.Helper()
		b := setup(t, simulated.Config{TransitAfter: never, DeliverAfter: 2 * never})
		return providertest.CarrierFixture{
			Carrier: b.Carrier(),
			Address: millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Cambridge", PostalCode: "CB2 1RX", Country: "GB"},
			NoRate:  millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Nowhere", Country: "XX"},
			Move: func(ctx context.Context, reference string) error {
				_, err := b.pool.Exec(ctx, `UPDATE simulated.labels SET purchased_at = purchased_at - $2::interval WHERE reference = $1`, reference, never)
				return err
			},
			Labels: func(ctx context.Context, order uuid.UUID) (n int, err error) {
				err = b.pool.QueryRow(ctx, `SELECT count(*) FROM simulated.labels WHERE order_id = $1 AND state = 'purchased'`, order).Scan(&n)
				return n, err
			},
		}
	})
}

func TestWarehouseConforms(t *testing.T) {
	t.Parallel()
	providertest.Warehouse(t, func(t testing.TB) providertest.WarehouseFixture {
		t.Helper()
		b := setup(t, simulated.Config{})
		return providertest.WarehouseFixture{
			Warehouse: b.Warehouse(), SKU: "TEA-001", NotPickable: "NOPICK-1",
			Requests: func(ctx context.Context, order uuid.UUID) (n int, err error) {
				err = b.pool.QueryRow(ctx, `SELECT count(*) FROM simulated.fulfillments WHERE order_id = $1 AND state = 'accepted'`, order).Scan(&n)
				return n, err
			},
		}
	})
}

func TestInstantGatewayConforms(t *testing.T) {
	t.Parallel()
	providertest.Gateway(t, func(testing.TB) providertest.GatewayFixture {
		p := simulated.Instant()
		return providertest.GatewayFixture{Gateway: p.Gateway(), Approved: "pm_ok",
			Ledger: func(_ context.Context, order uuid.UUID) (providertest.Ledger, error) {
				return providertest.Ledger(simulated.InstantLedger(p, order)), nil
			}}
	})
}
