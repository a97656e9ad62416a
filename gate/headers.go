package gate

import (
	"net/http"
	"slices"
	"strings"
)

// Headers of requests that say who the client is or which path was meant. Only the gate may say that to an upstream.
var (
	ownedPrefixes = []string{"gate-", "x-gate-", "x-forwarded-", "x-auth-", "x-remote-", "x-webauth-", "x-authenticated-", "x-original-"}
	ownedHeaders  = map[string]bool{
		"authorization": true, "proxy-authorization": true, "forwarded": true, "x-real-ip": true, "x-request-id": true,
		"x-client-ip": true, "x-cluster-client-ip": true, "true-client-ip": true, "cf-connecting-ip": true, "remote-user": true,
		"remote-addr": true, "x-user": true, "x-email": true, "x-roles": true, "x-rewrite-url": true, "x-http-method": true,
		"x-http-method-override": true, "x-method-override": true, "x-host": true, "client-ip": true, "x-forwarded": true, "forwarded-for": true, "proxy": true, // of which CGI makes HTTP_PROXY
	}
	// framing says where a request ends. Under its proper name the server has judged it; under another, as Transfer_Encoding, it would
	// reach an upstream that takes it for the proper one.
	framing = map[string]bool{"content-length": true, "transfer-encoding": true}
)

// stripOwned removes from h every header that is the gate's to set, in whatever spelling: upstreams that hand headers on as
// CGI variables do not tell case apart, nor '_' or '.' from '-'.
func stripOwned(h http.Header) {
	for name := range h {
		if isOwned(name) {
			delete(h, name)
		}
	}
}

func isOwned(name string) bool {
	if plain := isPlainHeader(name); plain {
		return false
	}
	folded := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, name)
	if ownedHeaders[folded] || framing[folded] && !strings.EqualFold(folded, name) {
		return true
	}
	for _, prefix := range ownedPrefixes {
		if strings.HasPrefix(folded, prefix) {
			return true
		}
	}
	return false
}

// isPlainHeader is a short way out for what nearly every request carries.
func isPlainHeader(name string) bool {
	switch name {
	case "Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Connection", "Content-Length", "Content-Type", "Cookie",
		"Idempotency-Key", "If-None-Match", "Origin", "Referer", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "User-Agent":
		return true
	}
	return false
}

// stripCookies removes the gate's own cookies and leaves the upstream's as the client wrote them.
func (c cookieJar) stripCookies(h http.Header) {
	lines := h["Cookie"]
	if len(lines) == 0 {
		return
	}
	var kept []string
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ";") {
			part = strings.TrimSpace(part)
			name, _, _ := strings.Cut(part, "=")
			if part != "" && !c.isOurs(strings.TrimSpace(name)) {
				kept = append(kept, part)
			}
		}
	}
	if len(kept) == 0 {
		delete(h, "Cookie")
		return
	}
	h["Cookie"] = []string{strings.Join(kept, "; ")}
}

// cleanResponse keeps an upstream from speaking as the gate: from setting the gate's cookies, which would be session
// fixation, from having them removed, and from sending its headers.
func (c cookieJar) cleanResponse(h http.Header) {
	h.Del("Gate-Identity")
	if slices.ContainsFunc(h["Clear-Site-Data"], func(v string) bool { return strings.Contains(v, "cookies") || strings.Contains(v, "*") }) {
		h.Del("Clear-Site-Data")
	}
	lines := h["Set-Cookie"]
	kept := lines[:0:0]
	for _, line := range lines {
		// A browser sends a cookie without a name as its value alone: "=a=b" comes back as "a=b".
		name, _, _ := strings.Cut(strings.TrimLeft(line, "= \t"), "=")
		if !c.isOurs(strings.TrimSpace(name)) {
			kept = append(kept, line)
		}
	}
	if len(kept) < len(lines) {
		h["Set-Cookie"] = kept
	}
}
