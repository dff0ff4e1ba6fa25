package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"intake/cmd/intake/internal/reference"
)

// A partner opens the reference, signs in with its own credentials and sends the
// first example, which gets saved. The page asks nobody but the front.
func TestDocs(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	tryDocs(t, s, s.fronts[0])
}

// The same where another server gives the tokens: the page asks that one too.
func TestDocs_ExternalIssuer(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	server := httptest.NewUnstartedServer(nil)
	issuer := "http://" + server.Listener.Addr().String()
	builtin := s.startFront(t, frontCommand{PublicURL: issuer})
	target, err := url.Parse(builtin.url())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Headers", "authorization, content-type")
		if r.Method != http.MethodOptions {
			proxy.ServeHTTP(w, r)
		}
	})
	server.Start()
	t.Cleanup(server.Close)
	tryDocs(t, s, s.startFront(t, frontCommand{issuerFlags: issuerFlags{
		OAuthIssuer: issuer, OAuthAudience: issuer, OAuthPartnerClaim: "sub", NoBuiltinIssuer: true,
	}}), issuer)
}

// The commands of the quick start, and for large batches, work when they are pasted.
func TestDocs_QuickStart(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	_, intro, _ := strings.Cut(string(reference.Document()), "## Quick start")
	intro, _, _ = strings.Cut(intro, "\ntags:")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(intro, -1)
	if len(blocks) != 3 {
		t.Fatalf("the introduction has %d blocks of commands", len(blocks))
	}
	dir := t.TempDir()
	batch := `[{"partner_client_id": "shop-2", "entity_type": "SoleTrader"}]`
	if err := os.WriteFile(filepath.Join(dir, "batch.json"), []byte(batch), 0o600); err != nil {
		t.Fatal(err)
	}
	getToken := blocks[0][1]
	for _, send := range blocks[1:] {
		shell := exec.CommandContext(t.Context(), "sh", "-c", getToken+send[1])
		shell.Dir = dir
		shell.Env = append(os.Environ(),
			"INTAKE_URL="+s.fronts[0].url(), "INTAKE_CLIENT_ID=acme", "INTAKE_CLIENT_SECRET="+s.secret)
		if out, err := shell.CombinedOutput(); err != nil || !strings.Contains(string(out), `"state":"Completed"`) {
			t.Errorf("%s\n%v: %s", send[1], err, out)
		}
	}
}

// What a partner fills in to sign in.
const (
	clientID  = `//label[.="Client ID"]/ancestor::td//*[@role="combobox"]`
	secret    = `//label[.="Client Secret"]/ancestor::td//input`
	authorize = `//button[normalize-space()="Authorize"]`
)

// A wrong secret is answered on the page, which goes on. The browser would ask for
// credentials itself, and wait, if the answer asked for Authorization.
func TestDocs_WrongSecret(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	ctx, _ := startBrowser(t)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, action := range []chromedp.Action[chromedp.Void]{
		chromedp.Navigate(s.fronts[0].url() + "/docs"),
		isTrue(`document.body.innerText.includes("Scopes Selected 2 / 2")`),
		chromedp.SendKeys(chromedp.Search(clientID), "acme"),
		chromedp.SendKeys(chromedp.Search(secret), "wrong"),
		chromedp.Click(chromedp.Search(authorize)),
		isTrue(`document.body.innerText.includes("unknown client, or wrong secret")`),
	} {
		if err := chromedp.Do(ctx, action); err != nil {
			t.Error(err)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			screenshot(ctx, t, "docs-wrong-secret.png")
			t.FailNow()
		}
	}
}

// tryDocs tries a front's page, which may ask others as well.
func tryDocs(t *testing.T, s *stack, f *frontProcess, others ...string) {
	t.Helper()
	ctx, watched := startBrowser(t)
	const (
		token = `//label[.="Access Token"]`
		send  = `(//button[@data-addressbar-action="send"])[1]`
		saved = `(document.querySelector("section[aria-label=Response]")?.innerText ?? "").includes('"state": "Completed"')`
	)
	for _, step := range []struct {
		does   string
		action chromedp.Action[chromedp.Void]
	}{
		{"opens the page", chromedp.Navigate(f.url() + "/docs#tag/batches/POST/api/v1/clients")},
		{"gives the client id", chromedp.SendKeys(chromedp.Search(clientID), "acme")},
		{"gives the secret", chromedp.SendKeys(chromedp.Search(secret), s.secret)},
		{"signs in", chromedp.Click(chromedp.Search(authorize))},
		{"has a token", chromedp.WaitVisible(chromedp.Search(token))},
		{"tries it", clickOn(`section[aria-labelledby][id$="POST/api/v1/clients"] .show-api-client-button`)},
		{"sends the example", chromedp.Click(chromedp.Search(send))},
		{"sees that it is saved", isTrue(saved)},
	} {
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		err := chromedp.Do(limited, step.action)
		cancel()
		if err != nil {
			screenshot(ctx, t, "docs-failed.png")
			t.Fatalf("%s: %v", step.does, err)
		}
	}
	screenshot(ctx, t, "docs.png")
	if n := s.count(t, "select count(*) from saved_clients where partner = 'acme'"); n != 1 {
		t.Errorf("%d clients are saved", n)
	}
	watched.check(t, append(others, f.url()))
}

// What the page shows can be read on a desktop and on a phone: no word of a table is
// broken, and nothing is cut off at the edge of the screen. A link to an operation
// leads to it.
func TestDocs_Layout(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	for path, serve := range reference.Handlers(reference.Issuer{}) {
		mux.HandleFunc(path, serve)
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	for _, width := range []int64{1400, 400} {
		t.Run(strconv.FormatInt(width, 10), func(t *testing.T) {
			ctx, _ := startBrowser(t)
			ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
			defer cancel()
			do := func(does string, action chromedp.Action[chromedp.Void]) {
				t.Helper()
				if err := chromedp.Do(ctx, action); err != nil {
					t.Fatalf("%s: %v", does, err)
				}
			}
			do("takes its size", chromedp.EmulateViewport(width, 1000))
			do("opens", chromedp.Navigate(server.URL+"/docs"))
			for i, place := range []struct{ fragment, heading string }{
				{"description/states", "States"},
				{"tag/batches/POST/api/v1/clients", "Create a batch of partner clients"},
				{"tag/amounts-of-money", "Amounts of money"},
				{"tag/limits", "Limits"},
				{"tag/problems", "Problems"},
			} {
				do("goes to "+place.heading, isTrue(fmt.Sprintf(`(location.hash = %q, true)`, place.fragment)))
				do("shows "+place.heading, isTrue(fmt.Sprintf(isAtTop, place.heading)))
				screenshot(ctx, t, fmt.Sprintf("docs-%d-%d.png", width, i))
			}
			wrong, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](unreadable))
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range wrong {
				t.Error(text)
			}
		})
	}
}

// isAtTop is whether a heading with a text is in the upper half of the screen.
const isAtTop = `[...document.querySelectorAll("h1, h2, h3")].some(e => {
	const top = e.getBoundingClientRect().top
	return e.innerText.trim() === %q && top >= 0 && top < innerHeight / 2
})`

// unreadable lists what is wrong with the tables that are rendered, and with what is
// on the screen.
const unreadable = `(() => {
	const wrong = [], edge = document.documentElement.clientWidth + 1, range = document.createRange()
	const tables = [...document.querySelectorAll("table")]
	if (tables.length < 4) wrong.push("there are " + tables.length + " tables only")
	for (const table of tables) {
		const room = table.closest(".markdown")?.getBoundingClientRect().right ?? edge
		if (table.getBoundingClientRect().right > Math.min(edge, room + 1) || table.scrollWidth > table.clientWidth + 1)
			wrong.push("a table is cut off: " + table.innerText.slice(0, 40))
		for (const cell of table.querySelectorAll("td, th")) {
			const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT)
			for (let node; node = walker.nextNode();) {
				for (const word of node.data.matchAll(/[^\s\/-]+/g)) {
					range.setStart(node, word.index)
					range.setEnd(node, word.index + word[0].length)
					if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) wrong.push("a word is broken: " + word[0])
				}
			}
		}
	}
	const scrolls = e => e && (getComputedStyle(e).overflowX !== "visible" || getComputedStyle(e).position === "fixed" || scrolls(e.parentElement))
	for (const e of document.querySelectorAll("main *")) {
		const r = e.getBoundingClientRect()
		if (r.width > 0 && r.bottom > 0 && r.top < innerHeight && r.right > edge && !scrolls(e.parentElement))
			wrong.push("wider than the screen: " + e.tagName + " " + e.className + " " + e.innerText?.slice(0, 40))
	}
	if (document.documentElement.scrollWidth > edge) wrong.push("the page scrolls sideways")
	return [...new Set(wrong)]
})()`

// clickOn clicks on an element that may be below what is seen of the page.
func clickOn(selector string) chromedp.Action[chromedp.Void] {
	return isTrue(`(e => { e?.click(); return !!e })(document.querySelector('` + selector + `'))`)
}

// isTrue waits until an expression is true.
func isTrue(expression string) chromedp.Action[chromedp.Void] {
	poll := chromedp.Poll[bool](expression)
	return func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := poll(ctx, t)
		return chromedp.Void{}, err
	}
}

// startBrowser starts a Chromium that reaches nothing but this machine.
func startBrowser(t *testing.T) (context.Context, *watched) {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.WindowSize(1400, 1400),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's own refuses to be root's
	}
	ctx, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	w := new(watched)
	ctx, end := chromedp.NewContext(ctx, chromedp.WithListener(w.note))
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start Chromium, which internal/local/install chromium installs: %v", err)
	}
	return ctx, w
}

func screenshot(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	image, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.ArtifactDir(), name)
	if err := os.WriteFile(file, image, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("the page is in %s (kept with -artifacts)", file)
}

// watched is what a page has done.
type watched struct {
	mu       sync.Mutex
	asked    []string // addresses, guarded by mu
	complain []string // what it or the browser said in the console, guarded by mu
}

func (w *watched) note(event any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch event := event.(type) {
	case *network.EventRequestWillBeSent:
		w.asked = append(w.asked, event.Request.URL)
	case *network.EventWebSocketCreated:
		w.asked = append(w.asked, event.URL)
	case *runtime.EventExceptionThrown:
		w.complain = append(w.complain, event.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		w.complain = append(w.complain, event.Entry.Text)
	}
}

// check sees to it that the page has asked those servers and nobody else, and that
// nothing of it was forbidden, by its policy for one.
func (w *watched) check(t *testing.T, servers []string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.asked) < 5 {
		t.Errorf("the page has asked for %q only", w.asked)
	}
	for _, address := range w.asked {
		parsed, err := url.Parse(address)
		if err != nil || parsed.Scheme != "data" && parsed.Scheme != "blob" &&
			!slices.Contains(servers, parsed.Scheme+"://"+parsed.Host) {
			t.Errorf("the page has asked for %s", address)
		}
	}
	for _, text := range w.complain {
		t.Errorf("the console says: %s", text)
	}
}
