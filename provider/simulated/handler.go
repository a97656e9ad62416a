package simulated

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace"
)

const (
	// maxBody is the longest body that a decision may come with. Nothing in it is read: its path says it all.
	maxBody = 4 << 10
	// pageTimeout bounds what a page waits for the database.
	pageTimeout = 5 * time.Second
	// pageCSP lets a page use its own style and send its own forms, and nothing else.
	pageCSP = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

//go:embed pages
var pageFiles embed.FS

var (
	pages = template.Must(template.ParseFS(pageFiles, "pages/*"))

	paymentReference = regexp.MustCompile(`^` + paymentPrefix + `[0-9a-f]{32}$`)
	trackingNumber   = regexp.MustCompile(`^` + trackingPrefix + `[0-9A-F]{32}$`)
)

// problem is an answer that says no (RFC 9457). Its code is stable.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func newProblem(status int, code, detail string) *problem {
	return &problem{Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

var (
	noPayment = newProblem(http.StatusNotFound, "not_found", "No payment with this reference ever waited for a buyer: use the reference or action_url of the order's event payment.requires_action.")
	noLabel   = newProblem(http.StatusNotFound, "not_found", "There is no label with this tracking number.")
	noPage    = newProblem(http.StatusNotFound, "not_found", "There is nothing at this address.")
	tooLarge  = newProblem(http.StatusRequestEntityTooLarge, "body_too_large", "Send no body: the address says it all.")
	badBody   = newProblem(http.StatusBadRequest, "bad_body", "The body could not be read: send none.")
	crossSite = newProblem(http.StatusForbidden, "cross_site", "A page of another site may not decide about a payment.")
	broken    = newProblem(http.StatusServiceUnavailable, "unavailable", "The simulated providers cannot reach their database: try again.")
)

// payment is a payment that waits, or waited, for its buyer.
type payment struct {
	Reference   string            `json:"reference"`
	OrderID     uuid.UUID         `json:"order_id"`
	State       string            `json:"state"` // requires_action, authorized, captured, voided or declined
	AmountMinor int64             `json:"amount_minor"`
	Currency    millrace.Currency `json:"currency"`
	decision    string            // confirmed, declined, or empty
}

// handler serves what the simulated providers show to people.
type handler struct {
	pool *pgxpool.Pool
	cfg  Config
}

func newHandler(pool *pgxpool.Pool, cfg Config) http.Handler {
	h := &handler{pool: pool, cfg: cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+paymentPath+"{reference}", h.showPayment)
	mux.HandleFunc("POST "+paymentPath+"{reference}/confirm", func(w http.ResponseWriter, r *http.Request) { h.decide(w, r, "confirmed") })
	mux.HandleFunc("POST "+paymentPath+"{reference}/decline", func(w http.ResponseWriter, r *http.Request) { h.decide(w, r, "declined") })
	mux.HandleFunc("GET "+labelPath+"{tracking}", h.showLabel)
	mux.HandleFunc(paymentPath+"{reference}", only("GET, HEAD"))
	mux.HandleFunc(labelPath+"{tracking}", only("GET, HEAD"))
	mux.HandleFunc(paymentPath+"{reference}/confirm", only("POST"))
	mux.HandleFunc(paymentPath+"{reference}/decline", only("POST"))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { noPage.write(w) })

	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { crossSite.write(w) }))
	return guard.Handler(mux)
}

// only refuses the methods that an address does not have.
func only(methods string) http.HandlerFunc {
	p := newProblem(http.StatusMethodNotAllowed, "method_not_allowed", "This address supports "+methods+" only.")
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", methods)
		p.write(w)
	}
}

func (h *handler) showPayment(w http.ResponseWriter, r *http.Request) {
	reference := r.PathValue("reference")
	if !paymentReference.MatchString(reference) {
		noPayment.write(w)
		return
	}
	p, err := h.queryPayment(r.Context(), `SELECT * FROM simulated.charges WHERE reference = $1 AND action_required`, reference)
	if err != nil {
		h.fail(w, r, err, noPayment)
		return
	}
	h.render(w, r, http.StatusOK, "payment.html", "text/html; charset=utf-8", h.page(p, ""))
}

func (h *handler) decide(w http.ResponseWriter, r *http.Request, decision string) {
	reference := r.PathValue("reference")
	if !paymentReference.MatchString(reference) {
		noPayment.write(w)
		return
	}
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			tooLarge.write(w)
			return
		}
		badBody.write(w)
		return
	}
	p, err := h.queryPayment(r.Context(), `SELECT * FROM simulated.decide_payment($1, $2)`, reference, decision)
	if err != nil {
		h.fail(w, r, err, noPayment)
		return
	}
	refusal := refusalOf(p, decision)
	switch browser := strings.Contains(r.Header.Get("Accept"), "text/html"); {
	case browser && refusal == nil:
		http.Redirect(w, r, paymentPath+p.Reference, http.StatusSeeOther)
	case browser:
		h.render(w, r, refusal.Status, "payment.html", "text/html; charset=utf-8", h.page(p, refusal.Detail))
	case refusal != nil:
		refusal.write(w)
	default:
		writeJSON(w, http.StatusOK, "application/json", p)
	}
}

// refusalOf is why the decision does not stand, nil if it does.
func refusalOf(p payment, decision string) *problem {
	switch p.decision {
	case decision:
		return nil
	case "confirmed":
		return newProblem(http.StatusConflict, "already_confirmed", "This payment was confirmed before and can no longer be declined.")
	case "declined":
		return newProblem(http.StatusConflict, "already_declined", "This payment was declined before and can no longer be confirmed: order again.")
	}
	return newProblem(http.StatusConflict, CodeVoided, "The shop has given this payment up, as the order was canceled or waited too long: order again.")
}

// paymentPage is what payment.html shows.
type paymentPage struct {
	payment
	Amount  string
	Note    string // why a decision was refused
	OrderAt string // where the order's page is, empty if that is not known
}

func (h *handler) page(p payment, note string) paymentPage {
	page := paymentPage{payment: p, Amount: p.Currency.Format(p.AmountMinor), Note: note}
	if h.cfg.OrderPage != "" {
		page.OrderAt = h.cfg.OrderPage + p.OrderID.String()
	}
	return page
}

func (h *handler) queryPayment(ctx context.Context, query string, args ...any) (payment, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	var p payment
	err := h.pool.QueryRow(ctx, `SELECT reference, order_id, state, amount_minor, currency, coalesce(decision, '') FROM (`+query+`) c`, args...).
		Scan(&p.Reference, &p.OrderID, &p.State, &p.AmountMinor, &p.Currency, &p.decision)
	return p, err
}

// label is what label.svg shows.
type label struct {
	Tracking string
	OrderID  uuid.UUID
	Country  string
	Service  string
	State    string
}

func (h *handler) showLabel(w http.ResponseWriter, r *http.Request) {
	l := label{Tracking: r.PathValue("tracking"), Service: carrierService}
	if !trackingNumber.MatchString(l.Tracking) {
		noLabel.write(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), pageTimeout)
	defer cancel()
	err := h.pool.QueryRow(ctx, `
		SELECT order_id, country, CASE state WHEN 'canceled' THEN state ELSE simulated.parcel_state(purchased_at, $2, $3) END
		FROM simulated.labels WHERE reference = $1 AND state <> 'declined'`,
		labelPrefix+strings.ToLower(strings.TrimPrefix(l.Tracking, trackingPrefix)), h.cfg.TransitAfter, h.cfg.DeliverAfter).
		Scan(&l.OrderID, &l.Country, &l.State)
	if err != nil {
		h.fail(w, r, err, noLabel)
		return
	}
	h.render(w, r, http.StatusOK, "label.svg", "image/svg+xml", l)
}

// fail answers for an error of the database: missing, if it says that there is no such row.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error, missing *problem) {
	if errors.Is(err, pgx.ErrNoRows) {
		missing.write(w)
		return
	}
	h.cfg.Logger.ErrorContext(r.Context(), "simulated: a page could not be served", "error", err)
	broken.write(w)
}

func (h *handler) render(w http.ResponseWriter, r *http.Request, status int, name, contentType string, data any) {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, data); err != nil {
		h.fail(w, r, err, noPage)
		return
	}
	w.Header().Set("Content-Security-Policy", pageCSP)
	write(w, status, contentType, b.Bytes())
}

func (p *problem) write(w http.ResponseWriter) {
	writeJSON(w, p.Status, "application/problem+json", p)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte("{}") // only values that can be encoded are ever passed
	}
	write(w, status, contentType, append(body, '\n'))
}

func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away cannot be told anything
}
