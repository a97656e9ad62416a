package http_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"millrace"
)

var update = flag.Bool("update", false, "write openapi.json anew")

func TestTheCommittedDocumentIsTheOneServed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	served := b.call(none, "GET", "/openapi.json", "").is(http.StatusOK)
	require.Equal(t, "application/openapi+json", served.header.Get("Content-Type"))
	if *update {
		require.NoError(t, os.WriteFile("openapi.json", served.body, 0o644))
	}
	committed, err := os.ReadFile("openapi.json")
	require.NoError(t, err)
	require.Equal(t, string(committed), string(served.body), "after a change of the API: go test ./http -run TheCommittedDocument -update")

	inYAML := b.call(none, "GET", "/openapi.yaml", "").is(http.StatusOK)
	var fromYAML, fromJSON any
	require.NoError(t, yaml.Unmarshal(inYAML.body, &fromYAML))
	require.NoError(t, json.Unmarshal(committed, &fromJSON))
	asJSON, err := json.Marshal(fromYAML)
	require.NoError(t, err)
	require.JSONEq(t, string(committed), string(asJSON), "both forms say the same")
}

func TestTheDocumentIsValidOpenAPI31(t *testing.T) {
	t.Parallel()
	b := setup(t)
	valid, problems := newValidator(t, b.server.OpenAPI()).ValidateDocument()
	for _, p := range problems {
		t.Error(p.Message, p.Reason, p.SchemaValidationErrors)
	}
	require.True(t, valid)
	require.Contains(t, string(b.server.OpenAPI()), `"openapi": "3.1.0"`)
	for _, foreign := range []string{"$schema", "127.0.0.1", "localhost", "unpkg"} {
		require.NotContains(t, string(b.server.OpenAPI()), foreign)
	}
}

func TestEveryOperationSaysWhatItIsAndHowItFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, d := range b.operations() {
		name := d.method + " " + d.path
		require.NotEmpty(t, d.operation["operationId"], name)
		require.NotEmpty(t, d.operation["summary"], name)
		statuses := d.statuses()
		want := []string{"400", "500", "503"}
		if !d.isPublic() {
			want = append(want, "401", "403")
		}
		if strings.Contains(d.path, "{") {
			want = append(want, "404")
		}
		for _, status := range want {
			require.Contains(t, statuses, status, name)
		}
	}
}

func (d documented) statuses() (all []string) {
	for status := range d.operation["responses"].(map[string]any) {
		all = append(all, status)
	}
	return all
}

// TestGeneratedRequestsGetDocumentedAnswers throws requests at every operation, some right, most of them not, and expects a status
// that the document names and never a 500. What the answers hold is checked by the transport.
func TestGeneratedRequestsGetDocumentedAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var operations []documented
	for _, d := range b.operations() {
		if !strings.HasSuffix(d.path, "/stream") {
			operations = append(operations, d)
		}
	}
	ids := []uuid.UUID{b.place(ada), b.place(ada), b.place(bob)}
	b.pay(ids[1])
	seen := make(map[string]int)
	rapid.Check(t, func(r *rapid.T) {
		d := rapid.SampledFrom(operations).Draw(r, "operation")
		who := rapid.SampledFrom([]millrace.Principal{ada, bob, olga, olga, guest, none}).Draw(r, "who")
		path := strings.NewReplacer("{id}", drawID(r, ids), "{sku}", drawSKU(r)).Replace(d.path) + drawQuery(r, d)
		headers := []string{"Idempotency-Key", rapid.SampledFrom([]string{"", "a", "b", uuid.NewString(), strings.Repeat("x", 300), "ü"}).Draw(r, "key")}
		if rapid.IntRange(0, 9).Draw(r, "odd content type") == 0 {
			headers = append(headers, "Content-Type", rapid.SampledFrom([]string{"", "text/html", "application/json; charset=utf-8", ";", "a/b+json"}).Draw(r, "content type"))
		}
		if rapid.Bool().Draw(r, "conditional") {
			headers = append(headers, "If-None-Match", rapid.SampledFrom([]string{"*", `"1"`, "x,,y", `W/"`}).Draw(r, "tags"))
		}
		answer := b.call(who, d.method, path, drawBody(r, d), headers...)
		require.NotEqual(b.t, http.StatusInternalServerError, answer.status, "%s %s: %s\n%s", d.method, path, answer.body, b.log.String())
		require.Contains(b.t, d.statuses(), fmt.Sprint(answer.status), "%s %s: %s", d.method, path, answer.body)
		seen[fmt.Sprint(answer.status/100)]++
	})
	require.NotZero(t, seen["2"], "some requests are right")
	require.NotZero(t, seen["4"], "some are not")
}

func drawID(r *rapid.T, ids []uuid.UUID) string {
	if rapid.IntRange(0, 3).Draw(r, "id that exists") > 0 {
		return rapid.SampledFrom(ids).Draw(r, "id").String()
	}
	return rapid.SampledFrom([]string{uuid.NewString(), "x", "%00", "%ff", "0", "00000000-0000-0000-0000-000000000000", "%F0%9F%8D%B5"}).Draw(r, "bad id")
}

func drawSKU(r *rapid.T) string {
	return rapid.SampledFrom([]string{"TEA-001", "TEA-001", "CUP-002", "NOPE-1", "tea", "%27", "%00", "A%20B", strings.Repeat("A", 65)}).Draw(r, "SKU")
}

// drawQuery draws some of the parameters that the operation has, and at times one that it has not.
func drawQuery(r *rapid.T, d documented) string {
	var pairs []string
	for _, p := range parameters(d) {
		if rapid.Bool().Draw(r, "with "+p) {
			value := rapid.SampledFrom([]string{"", "1", "5", "0", "-1", "true", "pending", "TEA-001", "2026-01-01T00:00:00Z", "99999999999", "bwE", "%00", "%ff", "%zz", "a%20b", "%2B"}).Draw(r, p)
			pairs = append(pairs, p+"="+value)
		}
	}
	if rapid.IntRange(0, 9).Draw(r, "unknown parameter") == 0 {
		pairs = append(pairs, "surprise=1")
	}
	if len(pairs) == 0 {
		return ""
	}
	return "?" + strings.Join(pairs, "&")
}

func parameters(d documented) (names []string) {
	list, _ := d.operation["parameters"].([]any)
	for _, p := range list {
		if p := p.(map[string]any); p["in"] == "query" {
			names = append(names, p["name"].(string))
		}
	}
	slices.Sort(names)
	return names
}

// drawBody draws a right body with some of its values replaced, or something that is no body at all.
func drawBody(r *rapid.T, d documented) string {
	rights := map[string]string{
		"place-order": teaOrder, "cancel-order": `{"reason":"no more"}`, "refund-order": `{"amount_minor":10}`, "hold-order": `{"reason":"wait"}`,
		"put-product":   `{"sku":"NEW-1","name":"New","description":"Fresh","price_minor":5,"currency":"EUR","active":true}`,
		"set-inventory": `{"on_hand":1000,"location":"main"}`,
		"put-me":        `{"email":"a@b.c","name":"A","phone":"1","address":{"name":"A","line1":"1","city":"Bath","country":"GB"}}`,
	}
	right, has := rights[d.operation["operationId"].(string)]
	switch shape := rapid.IntRange(0, 9).Draw(r, "shape"); {
	case !has || shape == 0:
		return rapid.SampledFrom([]string{"", "{}", "[]", "null", "{", "\xff", `{"a":1}`, strings.Repeat("x", 70_000)}).Draw(r, "other body")
	case shape < 5:
		return right
	}
	var v any
	if err := json.Unmarshal([]byte(right), &v); err != nil {
		panic(err)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	if err := e.Encode(mutate(r, v)); err != nil {
		panic(err)
	}
	return out.String()
}

// mutate replaces, drops or adds some of a JSON value's parts.
func mutate(r *rapid.T, v any) any {
	if rapid.IntRange(0, 5).Draw(r, "replace") == 0 {
		return rapid.SampledFrom([]any{nil, true, "", "x", "\x00", "🍵", strings.Repeat("y", 300), 0, -1, 1.5, 1e300, int64(1) << 60, []any{}, map[string]any{}, "EUR", "XXX"}).Draw(r, "value")
	}
	switch v := v.(type) {
	case map[string]any:
		changed := make(map[string]any)
		for _, name := range sortedKeys(v) {
			if rapid.IntRange(0, 9).Draw(r, "drop") > 0 {
				changed[name] = mutate(r, v[name])
			}
		}
		if rapid.IntRange(0, 9).Draw(r, "add") == 0 {
			changed["surprise"] = 1
		}
		return changed
	case []any:
		changed := []any{}
		for _, item := range v {
			for range rapid.IntRange(0, 3).Draw(r, "repeat") {
				changed = append(changed, mutate(r, item))
			}
		}
		return changed
	}
	return v
}

func sortedKeys(m map[string]any) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
