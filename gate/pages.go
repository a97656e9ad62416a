package gate

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"strings"
)

//go:embed pages
var pageFiles embed.FS

// pages are the gate's own HTML, one template a page, all in the same frame.
var pages = func() map[string]*template.Template {
	out := map[string]*template.Template{}
	entries, err := pageFiles.ReadDir("pages")
	if err != nil {
		panic(err) // embedded at build time
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".html"); ok && name != "layout" {
			out[name] = template.Must(template.ParseFS(pageFiles, "pages/layout.html", "pages/"+e.Name()))
		}
	}
	return out
}()

// page is what the templates show.
type page struct {
	Title  string
	Error  string
	Notice string
	Next   string // where to go after login
	Email  string
	User   *Principal
	Data   any // what one page alone needs
}

// csp lets the gate's pages load their style sheet from here and nothing else, from nowhere else, and forbids framing.
const csp = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func (x *exchange) render(status int, name string, p page) {
	var b bytes.Buffer
	if err := pages[name].ExecuteTemplate(&b, "layout", p); err != nil {
		panic(err) // of a template and its data, which the tests go through
	}
	h := x.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", csp)
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin") // with no-referrer, browsers would call the origin of our own forms null
	x.w.WriteHeader(status)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write(b.Bytes()) // a client that went away cannot be told
	}
}

// wantsPage reports whether the client shows HTML to a person, rather than being a script or a program that asks for data.
func (x *exchange) wantsPage() bool {
	h := x.r.Header
	return strings.Contains(h.Get("Accept"), "text/html") && len(h["Upgrade"]) == 0 && len(h["Authorization"]) == 0
}

func serveStyle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=3600")
	http.ServeFileFS(w, r, pageFiles, "pages/style.css")
}
