package gate

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// browser opens a page of headless Chromium, as wide as a small phone and in dark mode.
func browser(t *testing.T) context.Context {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("there is no Chromium on the PATH")
		}
		t.Skip("there is no Chromium on the PATH: the gate's pages are not tried in a browser")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(stop)
	ctx, closePage := chromedp.NewContext(ctx)
	t.Cleanup(closePage)
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(360, 740)); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	dark := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}}
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, dark); err != nil {
		t.Fatal(err)
	}
	return ctx
}

func TestPeopleLogInWithABrowser(t *testing.T) {
	t.Parallel()
	_, mail := withMail(t)
	b := setupRoutes(t, signUpRoutes, mail)
	b.upstream.serve(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if r.Method == http.MethodPost {
			fmt.Fprint(w, `<!doctype html><h1 id="written">written</h1>`)
			return
		}
		fmt.Fprint(w, `<!doctype html><h1 id="there">you are there</h1><form method="post" action="/v1/write"><button>write</button></form>`)
	})
	page := browser(t)
	do := func(what string, actions ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(page, actions...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	visible := func(selector string) chromedp.Action[chromedp.Void] {
		return chromedp.WaitVisible(chromedp.CSS(selector))
	}
	enter := func(selector, text string) chromedp.Action[chromedp.Void] {
		return chromedp.SendKeys(chromedp.CSS(selector), text)
	}
	ask := func(expression string) string {
		t.Helper()
		value, err := chromedp.Run(page, chromedp.Evaluate[string]("String("+expression+")"))
		if err != nil {
			t.Fatalf("%s: %v", expression, err)
		}
		return value
	}
	fits := func(path string) {
		t.Helper()
		for what, expression := range map[string]string{
			"no wider than the screen": `document.documentElement.scrollWidth <= 360`,
			"dark":                     `getComputedStyle(document.documentElement).backgroundColor !== "rgb(255, 255, 255)"`,
			"a label for each field":   `[...document.querySelectorAll("input:not([type=hidden])")].every(i => i.labels.length == 1)`,
		} {
			if ask(expression) != "true" {
				t.Errorf("%s: not %s", path, what)
			}
		}
	}
	do("open a guarded page", chromedp.Navigate(b.url+"/v1/page?x=1"), visible("#email"))
	if at := ask("location.href"); !strings.HasPrefix(at, b.url+"/auth/login?next=") {
		t.Errorf("sent to %s", at)
	}
	fits("login")
	do("a wrong password", enter("#email", customerEmail), enter("#password", "wrong password\r"), visible("#error"))
	if text := ask(`document.querySelector("#error").innerText`); text != denyLogin.detail {
		t.Errorf("it says %q", text)
	}
	fits("login with an error")
	do("the right password", enter("#password", customerPassword+"\r"), visible("#there"))
	if at := ask("location.href"); at != b.url+"/v1/page?x=1" {
		t.Errorf("sent to %s", at)
	}
	do("a write from a page of the upstream", chromedp.Click(chromedp.CSS("button")), visible("#written"))
	for _, path := range []string{"/auth/account", "/auth/password", "/auth/factor", "/auth/signup", "/auth/reset", "/auth/logout", "/auth/confirm?token=x", "/auth/signup/confirm?token=x", "/auth/reset/confirm?token=x"} {
		do(path, chromedp.Navigate(b.url+path), visible("main"))
		fits(path)
	}
	do("the QR code", chromedp.Navigate(b.url+"/auth/factor"), visible("img.qr"))
	if width := ask(`document.querySelector("img.qr").naturalWidth`); width != "240" {
		t.Errorf("the QR code is %s px wide", width)
	}
	do("log out", chromedp.Navigate(b.url+"/auth/logout"), visible("button"), chromedp.Click(chromedp.CSS("button")), visible(`a[href="/auth/login"]`))
	do("and the door is shut", chromedp.Navigate(b.url+"/v1/page"), visible("#email"))
}
