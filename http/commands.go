package http

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"millrace"
)

func (s *Server) registerCommands() {
	conflict := []int{http.StatusConflict}
	handle(s, operation{id: "cancel-order", method: http.MethodPost, path: "/v1/orders/{id}/cancel", tag: "orders", summary: "Cancel an order before it ships",
		description: "Its stock goes back at once, its money is voided or refunded shortly after. Canceling twice is once.",
		who:         participants, success: http.StatusAccepted, statuses: conflict}, s.cancelOrder)
	handle(s, operation{id: "refund-order", method: http.MethodPost, path: "/v1/orders/{id}/refunds", tag: "orders", summary: "Refund an order, in part or in full",
		who: operators, success: http.StatusAccepted, statuses: []int{http.StatusConflict, http.StatusUnprocessableEntity}}, s.refundOrder)
	handle(s, operation{id: "hold-order", method: http.MethodPost, path: "/v1/orders/{id}/hold", tag: "orders", summary: "Hold an order until it is released or canceled",
		who: operators, success: http.StatusAccepted, statuses: conflict}, s.holdOrder)
	handle(s, operation{id: "release-order", method: http.MethodPost, path: "/v1/orders/{id}/release", tag: "orders", summary: "Let a held order go on",
		who: operators, success: http.StatusAccepted, statuses: conflict}, s.releaseOrder)
	handle(s, operation{id: "retry-order", method: http.MethodPost, path: "/v1/orders/{id}/retry", tag: "orders", summary: "Try the step again that an order waits for",
		description: "Safe at any time: a step that is done does nothing the second time.",
		who:         operators, success: http.StatusAccepted, statuses: conflict}, s.retryOrder)
}

type commandOutput struct{ Body *Order }

// CancelRequest says why an order is canceled.
type CancelRequest struct {
	Reason string `json:"reason,omitempty" maxLength:"200" doc:"kept in the order's history"`
}

type cancelInput struct {
	ID   orderID `path:"id" doc:"the order's id"`
	Body *CancelRequest
}

func (s *Server) cancelOrder(ctx context.Context, in *cancelInput) (*commandOutput, error) {
	var request CancelRequest
	if in.Body != nil {
		request = *in.Body
	}
	if err := millrace.ValidateText("reason", request.Reason, false); err != nil {
		return nil, err
	}
	p, o, err := s.orderOf(ctx, uuid.UUID(in.ID))
	if err != nil {
		return nil, err
	}
	return s.afterCommand(ctx, p, o.ID)(s.config.Store.CancelOrder(ctx, o.ID, request.Reason, actorOf(p)))
}

// RefundRequest says how much is sent back.
type RefundRequest struct {
	AmountMinor *int64 `json:"amount_minor,omitempty" minimum:"1" maximum:"9007199254740991" doc:"in minor units of the order's currency; by default all that is left"`
}

type refundInput struct {
	ID   orderID        `path:"id" doc:"the order's id"`
	Key  idempotencyKey `header:"Idempotency-Key" required:"true"`
	Body *RefundRequest
}

func (s *Server) refundOrder(ctx context.Context, in *refundInput) (*commandOutput, error) {
	p, err := principalOf(ctx)
	if err != nil {
		return nil, err
	}
	var amount int64
	if in.Body != nil && in.Body.AmountMinor != nil {
		amount = *in.Body.AmountMinor
	}
	return s.afterCommand(ctx, p, uuid.UUID(in.ID))(s.config.Store.RefundOrder(ctx, uuid.UUID(in.ID), amount, string(in.Key), actorOf(p)))
}

// HoldRequest says why an order is held.
type HoldRequest struct {
	Reason string `json:"reason" minLength:"1" maxLength:"200" doc:"shown to operators"`
}

type holdInput struct {
	ID   orderID `path:"id" doc:"the order's id"`
	Body HoldRequest
}

func (s *Server) holdOrder(ctx context.Context, in *holdInput) (*commandOutput, error) {
	if err := millrace.ValidateText("reason", in.Body.Reason, true); err != nil {
		return nil, err
	}
	p, err := principalOf(ctx)
	if err != nil {
		return nil, err
	}
	return s.afterCommand(ctx, p, uuid.UUID(in.ID))(s.config.Store.HoldOrder(ctx, uuid.UUID(in.ID), in.Body.Reason, actorOf(p)))
}

type orderInput struct {
	ID orderID `path:"id" doc:"the order's id"`
}

func (s *Server) releaseOrder(ctx context.Context, in *orderInput) (*commandOutput, error) {
	p, err := principalOf(ctx)
	if err != nil {
		return nil, err
	}
	return s.afterCommand(ctx, p, uuid.UUID(in.ID))(s.config.Store.ReleaseOrder(ctx, uuid.UUID(in.ID), actorOf(p)))
}

func (s *Server) retryOrder(ctx context.Context, in *orderInput) (*commandOutput, error) {
	p, err := principalOf(ctx)
	if err != nil {
		return nil, err
	}
	return s.afterCommand(ctx, p, uuid.UUID(in.ID))(s.config.Store.ResumeOrder(ctx, uuid.UUID(in.ID), actorOf(p)))
}

// afterCommand answers with the order as it stands, read anew: a command loads only what it needs itself.
func (s *Server) afterCommand(ctx context.Context, viewer millrace.Principal, id uuid.UUID) func(*millrace.Order, error) (*commandOutput, error) {
	return func(_ *millrace.Order, err error) (*commandOutput, error) {
		if err != nil {
			return nil, err
		}
		o, err := s.config.Store.FindOrder(ctx, id)
		if err != nil {
			return nil, err
		}
		return &commandOutput{orderFor(viewer, o)}, nil
	}
}
