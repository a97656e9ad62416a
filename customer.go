package millrace

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Role is what a principal may do, as the identity token says.
type Role string

// The roles. An operator may do all that a customer may, on anyone's orders.
const (
	RoleCustomer Role = "customer"
	RoleOperator Role = "operator"
)

// Principal is who a request comes from, as its identity token says.
type Principal struct {
	Subject string // the identity provider's stable name for the person or machine; the key of Customer
	Email   string
	Name    string
	Roles   []Role
}

// Is reports whether p has the role.
func (p Principal) Is(r Role) bool { return slices.Contains(p.Roles, r) }

// Customer is a person who orders. Personal data can be erased; the id, the orders and their sums stay.
type Customer struct {
	ID        uuid.UUID
	Subject   string
	Email     string
	Name      string
	Phone     string
	Address   *Address // where orders go that name no address of their own; nil if none is stored
	CreatedAt time.Time
	UpdatedAt time.Time
	ErasedAt  *time.Time
}

// Address is a postal address. Country is an ISO 3166-1 alpha-2 code.
type Address struct {
	Name       string `json:"name"`
	Line1      string `json:"line1"`
	Line2      string `json:"line2,omitempty"`
	City       string `json:"city"`
	Region     string `json:"region,omitempty"`
	PostalCode string `json:"postal_code,omitempty"`
	Country    string `json:"country"`
	Phone      string `json:"phone,omitempty"`
}
