package http

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"millrace"
	"millrace/db"
)

func (s *Server) registerCustomers() {
	handle(s, operation{id: "get-me", method: http.MethodGet, path: "/v1/customers/me", tag: "customers", summary: "Get what is stored about the caller",
		who: participants, success: http.StatusOK}, s.getMe)
	handle(s, operation{id: "put-me", method: http.MethodPut, path: "/v1/customers/me", tag: "customers", summary: "Set what is stored about the caller",
		description: "As a whole: what is left out is removed. Orders that were placed keep the address they had.",
		who:         participants, success: http.StatusOK}, s.putMe)
	handle(s, operation{id: "erase-me", method: http.MethodDelete, path: "/v1/customers/me", tag: "customers", summary: "Erase the caller's personal data",
		description: "From the profile, from all orders and from stored answers. The orders stay, with their sums. It cannot be undone; doing it twice is doing it once.",
		who:         participants, success: http.StatusNoContent}, s.eraseMe)
}

// Customer is what is stored about a person who orders.
type Customer struct {
	ID        uuid.UUID         `json:"id" format:"uuid"`
	Email     string            `json:"email"`
	Name      string            `json:"name"`
	Phone     string            `json:"phone,omitempty"`
	Address   *millrace.Address `json:"address,omitempty" doc:"where orders go that name no address of their own"`
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
	ErasedAt  *time.Time        `json:"erased_at,omitempty" doc:"when the personal data was erased; gone once there is new"`
}

type customerOutput struct{ Body Customer }

func answerCustomer(c *millrace.Customer, err error) (*customerOutput, error) {
	if err != nil {
		return nil, err
	}
	return &customerOutput{Customer{ID: c.ID, Email: c.Email, Name: c.Name, Phone: c.Phone, Address: c.Address, CreatedAt: c.CreatedAt,
		UpdatedAt: c.UpdatedAt, ErasedAt: c.ErasedAt}}, nil
}

func (s *Server) getMe(ctx context.Context, _ *struct{}) (*customerOutput, error) {
	p, err := principalOf(ctx)
	if err != nil {
		return nil, err
	}
	return answerCustomer(s.config.Store.EnsureCustomer(ctx, p))
}

// CustomerRequest is all that shall be stored about a customer.
type CustomerRequest struct {
	Email   string            `json:"email" minLength:"3" maxLength:"200"`
	Name    string            `json:"name" minLength:"1" maxLength:"200"`
	Phone   string            `json:"phone,omitempty" maxLength:"200"`
	Address *millrace.Address `json:"address,omitempty"`
}

type putMeInput struct{ Body CustomerRequest }

func (s *Server) putMe(ctx context.Context, in *putMeInput) (*customerOutput, error) {
	p, err := principalOf(ctx)
	if err != nil {
		return nil, err
	}
	b := &in.Body
	return answerCustomer(s.config.Store.UpdateCustomer(ctx, p, db.CustomerUpdate{Email: &b.Email, Name: &b.Name, Phone: &b.Phone,
		Address: b.Address, ClearAddress: b.Address == nil}))
}

func (s *Server) eraseMe(ctx context.Context, _ *struct{}) (*struct{}, error) {
	p, err := principalOf(ctx)
	if err != nil {
		return nil, err
	}
	err = s.config.Store.EraseCustomer(ctx, p.Subject)
	if err != nil && millrace.ErrorCode(err) != millrace.CodeNotFound {
		return nil, err
	}
	return nil, nil // nothing to erase is erased
}
