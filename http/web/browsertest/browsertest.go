// Package browsertest looks at pages with a headless Chromium, for tests.
//
//	b := browsertest.New(t)
//	b.Open(server.URL)
//	b.Click("#place")
//	b.Wait(`document.querySelector("h1").textContent === "Thank you"`)
//	b.RequireOnly(server.URL) // nothing loaded from elsewhere, nothing complained about
//
// Without a browser the test is skipped; where CI is set in the environment it fails instead. The package imports chromedp and
// nothing of the module.
package browsertest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

const (
	patience  = 3 * time.Minute       // of a test with its browser, so that what never comes is a failure and not a hang
	waitLimit = 45 * time.Second      // of one Wait
	waitPoll  = 15 * time.Millisecond // between two looks
)

// running bounds how many browsers a test process runs at a time: each is several processes, and tests in parallel want one each.
var running = make(chan struct{}, 2)

// Browser is a browser with one tab. It is a chromedp context as well, for what its methods lack: chromedp.Do(b, ...). Its methods end
// the test on a failure, so only the test's own goroutine may call them.
type Browser struct {
	context.Context
	t testing.TB

	mu         sync.Mutex
	hosts      []string
	complaints []string
}

// New starts a browser that ends with the test.
func New(t testing.TB) *Browser {
	t.Helper()
	path := find()
	if path == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("no Chromium or Chrome found: install one (apt-get install chromium)")
		}
		t.Skip("no Chromium or Chrome found: install one to run the tests of the pages (apt-get install chromium)")
	}
	running <- struct{}{}
	t.Cleanup(func() { <-running })
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.DisableGPU)
	if os.Geteuid() == 0 || os.Getenv("CI") != "" {
		// The sandbox refuses root, and needs what containers often lack. The pages are our own.
		options = append(options, chromedp.NoSandbox)
	}
	b := &Browser{t: t}
	ctx, stop := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	ctx, endAllocator := chromedp.NewExecAllocator(ctx, options...)
	b.Context, _ = chromedp.NewContext(ctx, chromedp.WithListener(b.note)) // ended by chromedp.Cancel
	t.Cleanup(func() {
		if err := chromedp.Cancel(b); err != nil {
			t.Logf("end the browser: %v", err)
		}
		endAllocator()
		stop()
	})
	command(b, network.Enable, network.EnableParams{})
	return b
}

// find is the browser to use, empty if there is none.
func find() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell", "chrome",
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// note keeps what the tests ask about. It is called for each event of the tab.
func (b *Browser) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err == nil && u.Host != "" && !slices.Contains(b.hosts, u.Host) {
			b.hosts = append(b.hosts, u.Host)
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.complaints = append(b.complaints, fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type != runtime.ConsoleAPICalledTypeError && e.Type != runtime.ConsoleAPICalledTypeWarning {
			return
		}
		var words []string
		for _, a := range e.Args {
			words = append(words, string(a.Value)+a.Description)
		}
		b.complaints = append(b.complaints, fmt.Sprintf("console.%s: %s", e.Type, strings.Join(words, " ")))
	}
}

// Do runs actions.
func (b *Browser) Do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	b.check(chromedp.Do(b, actions...))
}

// check ends the test on an error, and says what the page looks like.
func (b *Browser) check(err error) {
	b.t.Helper()
	if err == nil {
		return
	}
	at, _ := chromedp.Run(b, chromedp.Location())
	text, _ := chromedp.Run(b, chromedp.Evaluate[string](`document.body?.innerText ?? ""`))
	b.t.Fatalf("browser: %v\nat %s, which says:\n%s\ncomplaints: %q", err, at, text, b.Complaints())
}

// Open goes to an address and waits until the page is loaded.
func (b *Browser) Open(address string) {
	b.t.Helper()
	b.Do(chromedp.Navigate(address))
}

// Click clicks on the first element of a CSS selector, once it is visible.
func (b *Browser) Click(selector string) {
	b.t.Helper()
	b.Wait(fmt.Sprintf("document.querySelector(%s)?.checkVisibility()", quote(selector)))
	b.Do(chromedp.Click(chromedp.CSS(selector)))
}

// Fill replaces what is in the first input of a CSS selector by what a person types.
func (b *Browser) Fill(selector, text string) {
	b.t.Helper()
	// chromedp.Clear sets the attribute, which an input that was typed into no longer heeds.
	Evaluate[any](b, fmt.Sprintf(`document.querySelector(%s).select()`, quote(selector)))
	b.Do(chromedp.Focus(chromedp.CSS(selector)), chromedp.KeyEvent(text))
}

// Cookie sets a cookie for an address.
func (b *Browser) Cookie(address, name, value string) {
	b.t.Helper()
	command(b, network.SetCookie, network.SetCookieParams{Name: name, Value: value, URL: address})
}

// Evaluate is the value of a JavaScript expression on the page.
func Evaluate[T any](b *Browser, expression string) T {
	b.t.Helper()
	value, err := chromedp.Run(b, chromedp.Evaluate[T](expression))
	b.check(err)
	return value
}

// Text is the text that the first element of a CSS selector shows.
func (b *Browser) Text(selector string) string {
	b.t.Helper()
	return Evaluate[string](b, fmt.Sprintf(`document.querySelector(%s)?.innerText ?? ""`, quote(selector)))
}

// Texts are the texts that all elements of a CSS selector show.
func (b *Browser) Texts(selector string) []string {
	b.t.Helper()
	return Evaluate[[]string](b, fmt.Sprintf(`Array.from(document.querySelectorAll(%s), (e) => e.innerText)`, quote(selector)))
}

// Location is the address of the page.
func (b *Browser) Location() string {
	b.t.Helper()
	address, err := chromedp.Run(b, chromedp.Location())
	b.check(err)
	return address
}

// Wait waits until a JavaScript expression is true, also on the pages that the browser goes on to meanwhile.
func (b *Browser) Wait(expression string) {
	b.t.Helper()
	look := chromedp.Evaluate[bool]("Boolean(" + expression + ")")
	ctx, cancel := context.WithTimeout(b, waitLimit)
	defer cancel()
	tick := time.NewTicker(waitPoll)
	defer tick.Stop()
	for {
		// An expression cannot be evaluated while a page gives way to another; it is looked at again.
		if held, err := chromedp.Run(ctx, look); err == nil && held {
			return
		}
		select {
		case <-ctx.Done():
			b.check(fmt.Errorf("%s was never true: %w", expression, ctx.Err()))
		case <-tick.C:
		}
	}
}

// View sets the size of the window in CSS pixels, and the colour scheme that the reader prefers.
func (b *Browser) View(width, height int64, dark bool) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.Do(chromedp.EmulateViewport(width, height))
	command(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// Hosts are the hosts, with their ports, that anything was requested from so far.
func (b *Browser) Hosts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.hosts)
}

// Complaints are the errors and warnings of the pages' scripts and of the browser itself so far: exceptions, what a content security
// policy has blocked, answers of 400 and above.
func (b *Browser) Complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.complaints)
}

// Forget forgets the complaints so far, such as those about an error that the test has provoked.
func (b *Browser) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = nil
}

// RequireOnly fails the test if anything was requested from a host other than that of origin, or complained about.
func (b *Browser) RequireOnly(origin string) {
	b.t.Helper()
	u, err := url.Parse(origin)
	if err != nil {
		b.t.Fatalf("parse the origin: %v", err)
	}
	for _, host := range b.Hosts() {
		if host != u.Host {
			b.t.Errorf("the pages loaded something from %s", host)
		}
	}
	for _, complaint := range b.Complaints() {
		b.t.Errorf("the browser complained: %s", complaint)
	}
}

// Overflow is the HTML of the elements that reach past the right edge of the window and so make the page scroll sideways.
func (b *Browser) Overflow() []string {
	b.t.Helper()
	return Evaluate[[]string](b, `document.documentElement.scrollWidth <= innerWidth ? [] :
		Array.from(document.querySelectorAll("body *")).filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
			.map((e) => e.outerHTML.slice(0, 100))`)
}

// quote writes a string for JavaScript.
func quote(s string) string {
	quoted, _ := json.Marshal(s) // a string always encodes
	return string(quoted)
}
