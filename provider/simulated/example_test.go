package simulated_test

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"millrace"
	"millrace/provider/simulated"
)

func ExampleInstant() {
	gateway := simulated.Instant().Gateway()
	order := uuid.MustParse("0190b6a0-0000-7000-8000-000000000001")
	request := millrace.PaymentRequest{Key: "1:authorize", OrderID: order, Method: "pm_ok", AmountMinor: 2500, Currency: "EUR", WithCapture: true}
	for range 2 { // under one key a second call moves nothing
		result, err := gateway.Authorize(context.Background(), request)
		fmt.Println(result.Outcome, result.Captured, err)
	}
	request.AmountMinor = 9900
	result, err := gateway.Authorize(context.Background(), request)
	fmt.Println(result.Outcome, result.Code, err)
	// Output:
	// approved true <nil>
	// approved true <nil>
	// declined idempotency_mismatch <nil>
}
