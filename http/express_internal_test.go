package http

import (
	stdjson "encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// humaTakes decodes a body as an operation does that is left to Huma.
func humaTakes(api huma.API, schema *huma.Schema, body []byte) (request OrderRequest, ok bool) {
	var parsed any
	if readJSON(body, &parsed) != nil {
		return request, false
	}
	result := &huma.ValidateResult{}
	huma.Validate(api.OpenAPI().Components.Schemas, schema, huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, parsed, result)
	if len(result.Errors) > 0 || readJSON(body, &request) != nil {
		return request, false
	}
	d := request.domain()
	return request, d.Validate() == nil
}

// piece is text that may stand where a body has a value or a name.
var piece = rapid.SampledFrom([]string{`"TEA-001"`, `"tea"`, `""`, `null`, `1`, `0`, `-1`, `1.0`, `1e2`, `10001`, `99999999999999999999`, `true`, `[]`, `{}`,
	`"EUR"`, `"EURO"`, `"eur"`, `"pm_ok"`, `"pm ok"`, `"a@b.de"`, `"GB"`, `"\u0047B"`, `"\ud800"`, `"Bath\n"`, `"` + strings.Repeat("x", 201) + `"`,
	`"line1"`, `"Lines"`, `"lines"`, `"sku"`, `"email"`, `"currency"`, `"ship_to"`, `"quantity"`, `"unknown"`, `"nullable"`, `"Ünder"`})

// Whatever the express takes, Huma takes too, and reads the same from it.
func TestTheExpressTakesOnlyWhatHumaTakes(t *testing.T) {
	t.Parallel()
	api := newAPI(http.NewServeMux(), "")
	schema := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[OrderRequest](), true, "OrderRequest")
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		// A good body, some of whose words were put in the place of others.
		body := `{"lines":[{"sku":"TEA-001","quantity":1},{"sku":"CUP-002","quantity":2}],"currency":"EUR","payment_method":"pm_ok","email":"ada@example.com",` +
			`"ship_to":{"name":"Ada Lovelace","line1":"12 Mill Lane","city":"Bath","region":"Avon","postal_code":"BA1 1AA","country":"GB"}}`
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			words := strings.FieldsFunc(body, func(r rune) bool { return strings.ContainsRune("{}[]:,", r) })
			word := rapid.SampledFrom(words).Draw(t, "word")
			other := rapid.OneOf(piece, rapid.SampledFrom(words)).Draw(t, "other")
			at := strings.Index(body, word)
			body = body[:at] + other + body[at+len(word):]
			if rapid.IntRange(0, 4).Draw(t, "cut") == 0 {
				from := rapid.IntRange(0, len(body)).Draw(t, "from")
				body = body[:from] + body[min(len(body), from+rapid.IntRange(0, 30).Draw(t, "length")):]
			}
		}
		var request OrderRequest
		if !decodeExpress([]byte(body), &request) {
			return
		}
		taken++
		same, ok := humaTakes(api, schema, []byte(body))
		if !ok || !reflect.DeepEqual(request, same) {
			t.Fatalf("express took %s\nas %+v\nHuma: %v %+v", body, request, ok, same)
		}
	})
	require.NotZero(t, taken)
}

func TestTheExpressTakesOrdinaryOrders(t *testing.T) {
	t.Parallel()
	address := `{"name":"Ada","line1":"12 Mill Lane","city":"Bath","country":"GB"}`
	for _, body := range []string{
		`{"lines":[{"sku":"TEA-001","quantity":1}],"payment_method":"pm_ok"}`,
		fmt.Sprintf(`{"lines":[{"sku":"TEA-001","quantity":1},{"sku":"TEA-001","quantity":10000}],"payment_method":"pm_ok","email":"a@b.de","ship_to":%s}`, address),
		` { "payment_method" : "pm_ok", "currency":"EUR", "lines" : [ {"quantity":1, "sku":"TEA-001"} ] } `,
	} {
		var request, same OrderRequest
		require.True(t, decodeExpress([]byte(body), &request), body)
		require.NoError(t, stdjson.Unmarshal([]byte(body), &same))
		require.Equal(t, same, request)
	}
}

func TestTheExpressLeavesToHumaWhatOnlyItRefuses(t *testing.T) {
	t.Parallel()
	for name, field := range map[string]string{"null": `"currency":null`, "empty": `"currency":""`, "twice": `"email":"a@b.de","email":"c@d.de"`,
		"unknown": `"price":1`, "other letters": `"Email":"a@b.de"`, "no whole number": `"lines":[{"sku":"TEA-001","quantity":1.5}]`} {
		body := `{` + field + `,"lines":[{"sku":"TEA-001","quantity":1}],"payment_method":"pm_ok"}`
		var request OrderRequest
		require.False(t, decodeExpress([]byte(body), &request), name)
	}
}
