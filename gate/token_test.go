package gate

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestKeyTokens(t *testing.T) {
	t.Parallel()
	key := NewKeyToken()
	id, ok := parseKeyToken(key)
	if !ok || len(id) != keyIDLen || key == NewKeyToken() {
		t.Errorf("%q %q %t", key, id, ok)
	}
	for _, bad := range []string{"", "mk_", key[:len(key)-1], key + "a", strings.ToUpper(key), strings.Replace(key, "_", "-", 2), "mk_" + strings.Repeat("0", keyIDLen) + key[3+keyIDLen:], key[:20] + "\x00" + key[21:]} {
		if _, ok := parseKeyToken(bad); ok {
			t.Errorf("%q was taken for a key", bad)
		}
	}
}

func FuzzKeyToken(f *testing.F) {
	f.Add(NewKeyToken())
	f.Add("mk_a_b")
	f.Fuzz(func(t *testing.T, token string) {
		id, ok := parseKeyToken(token)
		if ok && (len(id) != keyIDLen || !strings.HasPrefix(token, keyPrefix+id+"_") || strings.Trim(token, "abcdefghijklmnopqrstuvwxyz234567_") != "") {
			t.Fatalf("%q has the id %q", token, id)
		}
	})
}

func FuzzStripCookies(f *testing.F) {
	for _, s := range []string{"gate_session=a; b=c", "b=c;gate_session=\"a;b\"", " GATE_session = x", "__Host-gate_session=x;;", "a; gate_oidc", "a=b, gate_session=c"} {
		f.Add(s)
	}
	var jar cookieJar
	f.Fuzz(func(t *testing.T, line string) {
		h := http.Header{"Cookie": {line}}
		jar.stripCookies(h)
		r := &http.Request{Header: h}
		for _, c := range r.Cookies() {
			if jar.isOurs(c.Name) {
				t.Fatalf("%q left %q", line, h["Cookie"])
			}
		}
		// Cookies of others pass, as long as there is nothing odd about them.
		if strings.Trim(line, "abcxyz=; ") == "" {
			before := (&http.Request{Header: http.Header{"Cookie": {line}}}).Cookies()
			if len(before) != len(r.Cookies()) {
				t.Fatalf("%q became %q", line, h["Cookie"])
			}
		}
	})
}

func FuzzOwnedHeaders(f *testing.F) {
	for _, s := range []string{"Gate-Identity", "gate_identity", "X-Forwarded-For", "x.real.ip", "Accept", "PROXY", "Gate", "Gatekeeper"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		// What a server that hands headers on as CGI variables would take for ours must be ours.
		cgi := "HTTP_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_", " ", "_").Replace(name))
		ours := strings.HasPrefix(cgi, "HTTP_GATE_") || strings.HasPrefix(cgi, "HTTP_X_FORWARDED_") || slices.Contains([]string{"HTTP_FORWARDED", "HTTP_AUTHORIZATION", "HTTP_X_REAL_IP", "HTTP_REMOTE_USER", "HTTP_PROXY"}, cgi)
		if ours && !isOwned(name) {
			t.Fatalf("%q is %s to a CGI server and passes", name, cgi)
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0x81, 2, 'h', 'i'}, 1)
	f.Add([]byte{0x81, 126, 0, 1, 'x', 0x88, 0}, 3)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		var whole, parts frameTracker
		whole.feed(data)
		if cut < 0 || cut > len(data) {
			cut = len(data) / 2
		}
		parts.feed(data[:cut])
		parts.feed(data[cut:])
		if whole.between() != parts.between() || whole.payload != parts.payload {
			t.Fatalf("%x cut at %d: %+v and %+v", data, cut, whole, parts)
		}
	})
}
