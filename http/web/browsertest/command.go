package browsertest

import (
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
)

// command sends a command of the browser's protocol that chromedp has no action for.
func command[P, R any](b *Browser, c cdp.Command[P, R], params P) {
	b.t.Helper()
	_, err := chromedp.Call(b, c, params)
	b.check(err)
}
