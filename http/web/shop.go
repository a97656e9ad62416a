package web

import (
	"net/http"

	"millrace"
)

// productsPerPage is how many products the storefront shows at a time.
const productsPerPage = 48

// method is a way to pay that the storefront offers.
type method struct {
	Token string
	Name  string
	Hint  string
}

// simulatedMethods are those of the simulated gateway.
var simulatedMethods = []method{
	{"pm_ok", "Test card", "Approved at once."},
	{"pm_3ds", "Test card with confirmation", "The simulated bank asks you to confirm the payment."},
	{"pm_slow", "Slow test card", "The answer takes two seconds."},
	{"pm_flaky", "Flaky test card", "Fails twice, then is approved."},
	{"pm_lost_answer", "Test card with a lost answer", "Charged once, although the answer never arrives."},
	{"pm_declined", "Declined test card", "Declined for insufficient funds."},
}

// shopData is what shop.html shows.
type shopData struct {
	Products []millrace.Product
	Next     string // the SKU after which the next page begins, empty on the last
	Later    bool   // this is not the first page
	Address  millrace.Address
	Email    string
	Methods  []method // empty where the buyer gives a token
}

// shop shows the catalogue and the basket. Anyone may look; ordering needs a login.
func (w *Web) shop(r *http.Request, p *millrace.Principal) (*view, error) {
	ctx := r.Context()
	d := &shopData{}
	after := r.URL.Query().Get("after")
	products, more, err := w.config.Store.ListProducts(ctx, false, after, productsPerPage)
	if err != nil {
		return nil, err
	}
	d.Products, d.Later = products, after != ""
	if more {
		d.Next = products[len(products)-1].SKU
	}
	if w.config.Simulated {
		d.Methods = simulatedMethods
	}
	if p != nil {
		d.Email, d.Address.Name = p.Email, p.Name
		c, err := w.config.Store.FindCustomer(ctx, p.Subject)
		switch {
		case err == nil && c.Address != nil:
			d.Address = *c.Address
		case err != nil && millrace.ErrorCode(err) != millrace.CodeNotFound:
			return nil, err
		}
		if err == nil && c.Email != "" {
			d.Email = c.Email
		}
	}
	return &view{Template: "shop", Title: "Shop", Section: "shop", Script: "shop.js", Data: d}, nil
}

// docs shows the API's documentation, which is read from /openapi.json.
func (w *Web) docs(*http.Request, *millrace.Principal) (*view, error) {
	return &view{Template: "docs", Title: "API", Section: "docs", Script: "docs.js", Policy: docsPolicy}, nil
}
