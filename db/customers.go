package db

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"millrace"
	"millrace/db/dbsqlc"
)

// CustomerUpdate changes a customer's stored data. A nil field stays as it is; ClearAddress removes the address.
type CustomerUpdate struct {
	Email        *string
	Name         *string
	Phone        *string
	Address      *millrace.Address
	ClearAddress bool
}

// EnsureCustomer is the principal's customer, made at first sight with the e-mail and name of the identity token.
func (s *Store) EnsureCustomer(ctx context.Context, p millrace.Principal) (*millrace.Customer, error) {
	if err := s.makeCustomer(ctx, p); err != nil {
		return nil, err
	}
	return s.FindCustomer(ctx, p.Subject)
}

// FindCustomer is the customer of a subject, or CodeNotFound.
func (s *Store) FindCustomer(ctx context.Context, subject string) (*millrace.Customer, error) {
	row, err := s.queries().FindCustomer(ctx, subject)
	if err != nil {
		return nil, translate(err)
	}
	return customerOf(row)
}

// UpdateCustomer changes the stored data of the principal's customer, who is made if there is none yet.
func (s *Store) UpdateCustomer(ctx context.Context, p millrace.Principal, u CustomerUpdate) (*millrace.Customer, error) {
	if err := u.validate(); err != nil {
		return nil, err
	}
	if err := s.makeCustomer(ctx, p); err != nil {
		return nil, err
	}
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		q := dbsqlc.New(tx)
		row, err := q.LockCustomer(ctx, p.Subject)
		if err != nil {
			return err
		}
		address := row.Address
		if u.ClearAddress {
			address = nil
		}
		if u.Address != nil {
			if address, err = addressJSON(u.Address); err != nil {
				return err
			}
		}
		return q.UpdateCustomer(ctx, dbsqlc.UpdateCustomerParams{Subject: p.Subject, Email: orKeep(u.Email, row.Email),
			Name: orKeep(u.Name, row.Name), Phone: orKeep(u.Phone, row.Phone), Address: address, UpdatedAt: s.now()})
	})
	if err != nil {
		return nil, translate(fmt.Errorf("update a customer: %w", err))
	}
	return s.FindCustomer(ctx, p.Subject)
}

func (u *CustomerUpdate) validate() error {
	if u.Email != nil && *u.Email != "" {
		if err := millrace.ValidateEmail("email", *u.Email); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name  string
		value *string
	}{{"name", u.Name}, {"phone", u.Phone}} {
		if f.value != nil {
			if err := millrace.ValidateText(f.name, *f.value, false); err != nil {
				return err
			}
		}
	}
	if u.Address != nil {
		return u.Address.Validate("address")
	}
	return nil
}

func orKeep(new *string, old string) string {
	if new != nil {
		return *new
	}
	return old
}

// EraseCustomer removes a customer's personal data: from the customer and from the orders. The orders, their sums and their events
// stay. Erasing twice is once; a subject without a customer is CodeNotFound.
func (s *Store) EraseCustomer(ctx context.Context, subject string) error {
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		q := dbsqlc.New(tx)
		id, err := q.EraseCustomer(ctx, dbsqlc.EraseCustomerParams{Subject: subject, At: s.now()})
		if err != nil {
			return err
		}
		return q.EraseOrders(ctx, id)
	})
	return translate(err)
}

// makeCustomer makes the principal's customer at first sight. Two first sights at once make one: who comes second writes nothing.
func (s *Store) makeCustomer(ctx context.Context, p millrace.Principal) error {
	if _, known := s.customers.get(p.Subject); known {
		return nil
	}
	q := s.queries()
	row, err := q.FindCustomer(ctx, p.Subject)
	if err != nil {
		id, idErr := uuid.NewV7()
		if idErr != nil {
			return idErr
		}
		if err := q.CreateCustomer(ctx, dbsqlc.CreateCustomerParams{ID: id, Subject: p.Subject, Email: p.Email, Name: p.Name, At: s.now()}); err != nil {
			return translate(err)
		}
		if row, err = q.FindCustomer(ctx, p.Subject); err != nil {
			return translate(err)
		}
	}
	s.customers.put(p.Subject, row.ID)
	return nil
}

func customerOf(r dbsqlc.Customer) (*millrace.Customer, error) {
	address, err := parseAddress(r.Address)
	if err != nil {
		return nil, fmt.Errorf("read the address of customer %s: %w", r.ID, err)
	}
	return &millrace.Customer{ID: r.ID, Subject: r.Subject, Email: r.Email, Name: r.Name, Phone: r.Phone, Address: address,
		CreatedAt: localTime(r.CreatedAt), UpdatedAt: localTime(r.UpdatedAt), ErasedAt: r.ErasedAt}, nil
}
