package web

import (
	"fmt"
	"hash/fnv"
	"html/template"
	"time"

	"github.com/google/uuid"

	"millrace"
)

// functions are what the templates can call, asset aside.
var functions = template.FuncMap{
	"exact":       exact,
	"iso":         func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"money":       func(c millrace.Currency, minor int64) string { return c.Format(minor) },
	"exponent":    func(c millrace.Currency) int { e, _ := c.Exponent(); return e },
	"plain":       plain,
	"short":       short,
	"order":       func(s millrace.OrderStatus) label { return orderLabels[s] },
	"payment":     func(s millrace.PaymentStatus) label { return paymentLabels[s] },
	"fulfillment": func(s millrace.FulfillmentStatus) label { return fulfillmentLabels[s] },
	"picture":     pictureOf,
}

// short is what tells an order from others at a glance: the end of its id, which is random where the beginning is the time.
func short(id uuid.UUID) string { return id.String()[24:] }

// picture stands in for a product's photograph: waves whose colour and swell follow from its SKU.
type picture struct {
	Hue    int
	Second int
	Waves  []string // SVG paths over a field of 320 by 120
}

func pictureOf(sku string) picture {
	h := fnv.New32a()
	_, _ = h.Write([]byte(sku)) // never fails
	n := int(h.Sum32() >> 1)
	p := picture{Hue: n % 360, Second: (n + 30 + n/360%40) % 360}
	for i := range 3 {
		swell, rise := 10+n>>(3*i)%14, 52+22*i
		p.Waves = append(p.Waves, fmt.Sprintf("M0 %d q40 %d 80 0 t80 0 t80 0 t80 0 V120 H0 Z", rise, -swell))
	}
	return p
}
