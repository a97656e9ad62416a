package http

import (
	"cmp"
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"millrace"
)

func (s *Server) registerInventory() {
	handle(s, operation{id: "get-inventory", method: http.MethodGet, path: "/v1/inventory/{sku}", tag: "stock", summary: "Get the stock of a SKU",
		who: operators, success: http.StatusOK}, s.getInventory)
	handle(s, operation{id: "set-inventory", method: http.MethodPut, path: "/v1/inventory/{sku}", tag: "stock", summary: "Set what is on hand of a SKU at a location",
		description: "What orders have reserved stays on hand until it ships: no less than that can be set. The difference is kept in the stock's history.",
		who:         operators, success: http.StatusOK, statuses: []int{http.StatusConflict}}, s.setInventory)
}

// sku is a stock keeping unit in a path.
type sku string

// Schema describes a SKU, for Huma.
func (sku) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Pattern: `^[A-Z0-9][A-Z0-9._-]{0,63}$`, PatternDescription: "a SKU as GET /v1/products lists them"}
}

// Inventory is the stock of a SKU.
type Inventory struct {
	SKU    string           `json:"sku"`
	Levels []InventoryLevel `json:"levels" doc:"by location"`
}

// InventoryLevel is the stock of a SKU at a location.
type InventoryLevel struct {
	Location  string `json:"location"`
	OnHand    int64  `json:"on_hand" minimum:"0"`
	Reserved  int64  `json:"reserved" minimum:"0" doc:"of what is on hand, held by orders that have not shipped"`
	Available int64  `json:"available" minimum:"0" doc:"on hand and not reserved"`
}

func levelOf(l millrace.InventoryLevel) InventoryLevel {
	return InventoryLevel{Location: l.Location, OnHand: l.OnHand, Reserved: l.Reserved, Available: l.OnHand - l.Reserved}
}

type getInventoryInput struct {
	SKU sku `path:"sku"`
}

type inventoryOutput struct{ Body Inventory }

func (s *Server) getInventory(ctx context.Context, in *getInventoryInput) (*inventoryOutput, error) {
	levels, err := s.config.Store.ListStock(ctx, string(in.SKU))
	if err != nil {
		return nil, err
	}
	out := &inventoryOutput{Inventory{SKU: string(in.SKU), Levels: []InventoryLevel{}}}
	for _, l := range levels {
		out.Body.Levels = append(out.Body.Levels, levelOf(l))
	}
	return out, nil
}

// InventoryRequest sets what is on hand at a location.
type InventoryRequest struct {
	OnHand   int64  `json:"on_hand" minimum:"0" maximum:"1000000000"`
	Location string `json:"location,omitempty" maxLength:"200" doc:"main by default"`
}

type setInventoryInput struct {
	SKU  sku `path:"sku"`
	Body InventoryRequest
}

func (s *Server) setInventory(ctx context.Context, in *setInventoryInput) (*inventoryOutput, error) {
	p, err := principalOf(ctx)
	if err != nil {
		return nil, err
	}
	location := cmp.Or(in.Body.Location, millrace.DefaultLocation)
	level, err := s.config.Store.SetStock(ctx, string(in.SKU), location, in.Body.OnHand, actorOf(p))
	if err != nil {
		return nil, err
	}
	return &inventoryOutput{Inventory{SKU: level.SKU, Levels: []InventoryLevel{levelOf(level)}}}, nil
}
