package http

import (
	"context"
	"net/http"
	"time"

	"millrace"
)

func (s *Server) registerProducts() {
	handle(s, operation{id: "list-products", method: http.MethodGet, path: "/v1/products", tag: "catalogue", summary: "List what there is to buy, by SKU",
		who: public, success: http.StatusOK, statuses: []int{http.StatusUnauthorized, http.StatusForbidden}}, s.listProducts)
	handle(s, operation{id: "put-product", method: http.MethodPost, path: "/v1/products", tag: "catalogue", summary: "Make a product, or change it",
		description: "Orders placed after the answer have the new price. A product that is not active is not for sale.",
		who:         operators, success: http.StatusCreated}, s.putProduct)
}

// Product is an entry of the catalogue. PriceMinor is in minor units of Currency.
type Product struct {
	SKU         string    `json:"sku"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	PriceMinor  int64     `json:"price_minor" minimum:"1"`
	Currency    string    `json:"currency" minLength:"3" maxLength:"3"`
	Active      bool      `json:"active"`
	Available   int64     `json:"available" minimum:"0" doc:"on hand and not reserved, over all locations"`
	UpdatedAt   time.Time `json:"updated_at"`
}

type listProductsInput struct {
	IncludeInactive bool   `query:"include_inactive" doc:"also those not for sale; for operators only"`
	Cursor          string `query:"cursor" maxLength:"200" doc:"next_cursor of the page before"`
	Limit           int    `query:"limit" minimum:"1" maximum:"200" default:"100"`
}

// ProductPage is one page of the catalogue.
type ProductPage struct {
	Products   []Product `json:"products"`
	NextCursor string    `json:"next_cursor,omitempty" doc:"left out on the last page"`
}

type productPageOutput struct {
	CacheControl string `header:"Cache-Control" hidden:"true"`
	Body         ProductPage
}

func (s *Server) listProducts(ctx context.Context, in *listProductsInput) (*productPageOutput, error) {
	if in.IncludeInactive {
		if err := operators.admits(exchangeOf(ctx).principal); err != nil {
			return nil, err
		}
	}
	after, err := decodeCursor(productCursor, in.Cursor)
	if err != nil {
		return nil, err
	}
	if after != nil && !isPrintable(string(after), 64) {
		return nil, errCursor()
	}
	products, more, err := s.config.Store.ListProducts(ctx, in.IncludeInactive, string(after), in.Limit)
	if err != nil {
		return nil, err
	}
	page := ProductPage{Products: []Product{}}
	for _, p := range products {
		page.Products = append(page.Products, productOf(p))
	}
	if more {
		page.NextCursor = encodeCursor(productCursor, []byte(products[len(products)-1].SKU))
	}
	return &productPageOutput{CacheControl: "no-cache", Body: page}, nil
}

func productOf(p millrace.Product) Product {
	return Product{SKU: p.SKU, Name: p.Name, Description: p.Description, PriceMinor: p.PriceMinor, Currency: string(p.Currency),
		Active: p.Active, Available: p.Available, UpdatedAt: p.UpdatedAt}
}

// ProductRequest makes a product or changes it as a whole.
type ProductRequest struct {
	SKU         string `json:"sku" minLength:"1" maxLength:"64" example:"TEA-001" doc:"capital letters, digits, dots, dashes and underscores"`
	Name        string `json:"name" minLength:"1" maxLength:"200"`
	Description string `json:"description,omitempty" maxLength:"2000"`
	PriceMinor  int64  `json:"price_minor" minimum:"1" maximum:"9007199254740991" doc:"in minor units of the currency"`
	Currency    string `json:"currency" minLength:"3" maxLength:"3" example:"EUR"`
	Active      *bool  `json:"active,omitempty" doc:"whether it is for sale; true by default"`
}

type putProductInput struct{ Body ProductRequest }

// ProductKey names a product that was made or changed.
type ProductKey struct {
	SKU     string `json:"sku"`
	Created bool   `json:"created" doc:"whether it is new"`
}

type putProductOutput struct{ Body ProductKey }

func (s *Server) putProduct(ctx context.Context, in *putProductInput) (*putProductOutput, error) {
	b := in.Body
	created, err := s.config.Store.PutProduct(ctx, millrace.Product{SKU: b.SKU, Name: b.Name, Description: b.Description, PriceMinor: b.PriceMinor,
		Currency: millrace.Currency(b.Currency), Active: b.Active == nil || *b.Active})
	if err != nil {
		return nil, err
	}
	return &putProductOutput{ProductKey{SKU: b.SKU, Created: created}}, nil
}
