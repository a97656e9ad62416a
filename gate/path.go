package gate

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

const (
	maxPath   = 4 << 10 // bytes of a path, encoded
	maxUnwrap = 8       // how many layers of percent-encoding are looked through
)

// canonicalPath turns the path of a request target, as the client sent it, into the one form that is routed on and passed on:
// decoded once. It refuses what a server behind the gate could read as another path than the gate did: dot segments, empty
// segments, backslashes, semicolons, control characters, encoded slashes and bytes that are no UTF-8, in whatever number of
// layers of percent-encoding they are wrapped.
func canonicalPath(target string) (string, error) {
	path, _, _ := strings.Cut(target, "?")
	switch {
	case !strings.HasPrefix(path, "/"):
		return "", invalid("the request target must be a path that starts with '/'")
	case len(path) > maxPath:
		return "", invalid("the path must be at most %d bytes long", maxPath)
	case strings.Contains(path, "#"):
		return "", invalid("the path must not contain '#'")
	}
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return "", invalid("the path contains a '%%' that does not start a percent-encoded byte")
	}
	slashes := strings.Count(path, "/")
	layer := path
	for range maxUnwrap {
		if err := checkLayer(layer); err != nil {
			return "", err
		}
		next := unwrap(layer)
		if strings.Count(next, "/") != slashes {
			return "", invalid("the path must not contain an encoded slash")
		}
		if next == layer {
			return decoded, nil
		}
		layer = next
	}
	return "", invalid("the path is percent-encoded too many times over")
}

// checkLayer refuses what is dangerous in one layer of encoding.
func checkLayer(path string) error {
	if !utf8.ValidString(path) {
		return invalid("the path must be valid UTF-8")
	}
	for _, r := range path {
		switch {
		case r < 0x20 || r >= 0x7f && r < 0xa0:
			return invalid("the path must not contain control characters")
		case r == '\\' || r == ';':
			return invalid("the path must not contain %q", r)
		}
	}
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		// Some servers drop trailing dots and spaces of a name, so "..." and ".. " count as dot segments too.
		// What decodes once more to '?' or '#' may end a path there.
		if name := s[:strings.IndexAny(s+"?", "?#")]; name != "" && strings.Trim(name, ". ") == "" {
			return invalid("the path must not contain dot segments")
		}
		if s == "" && i < len(segments)-1 {
			return invalid("the path must not contain empty segments")
		}
	}
	return nil
}

// unwrap decodes what is percent-encoded in s and leaves a stray '%' as it is.
func unwrap(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, ok1 := unhex(s[i+1])
			lo, ok2 := unhex(s[i+2])
			if ok1 && ok2 {
				b.WriteByte(hi<<4 | lo)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// localTarget returns target if a browser that is sent there stays on this site, else fallback.
func localTarget(target, fallback string) string {
	path, query, hasQuery := strings.Cut(target, "?")
	canonical, err := canonicalPath(path)
	if err != nil || strings.ContainsFunc(query, func(r rune) bool { return r <= 0x20 || r >= 0x7f || r == '\\' || r == '#' }) {
		return fallback
	}
	u := url.URL{Path: canonical}
	if hasQuery {
		u.RawQuery = query
	}
	return u.String()
}
