package front_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/front"
	"intake/cmd/intake/internal/origin"
	"intake/internal/local/localtest"
)

// raw sends bytes to a front, and gives the status lines that come back until it
// hangs up.
func raw(t *testing.T, f *testFront, parts ...string) (statuses []string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		for _, part := range parts {
			if _, err := io.WriteString(conn, part); err != nil {
				return // it hangs up on us
			}
		}
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if text := lines.Text(); strings.HasPrefix(text, "HTTP/1.1 ") {
			statuses = append(statuses, text[9:12])
		}
	}
	return statuses
}

// Headers that are too large, given twice or in conflict are refused, and nothing
// that hides behind them is taken for a request.
func TestServe_Headers(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	body := items("a")
	post := "POST /api/v1/clients HTTP/1.1\r\nHost: intake.test\r\nAuthorization: Bearer " + token +
		"\r\nContent-Type: application/json\r\n"
	hidden := "GET /livez HTTP/1.1\r\nHost: intake.test\r\n\r\n"
	for name, test := range map[string]struct {
		parts []string
		want  string // statuses
	}{
		"a header of 1 MB": {[]string{post, "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"}, "431"},
		"100,000 headers":  {[]string{post, strings.Repeat("X: y\r\n", 100_000), "\r\n"}, "431"},
		"two lengths": {[]string{post, fmt.Sprintf("Content-Length: %d\r\nContent-Length: 5\r\n\r\n%s", len(body),
			body)}, "400"},
		// The chunks count (RFC 9112 §6.3): what follows the last one is a request.
		"length and chunks": {[]string{post, "Content-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			hidden}, "400 200"},
		"two hosts":           {[]string{"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"}, "400"},
		"no host":             {[]string{"GET /livez HTTP/1.1\r\n\r\n"}, "400"},
		"an unknown encoding": {[]string{post, "Transfer-Encoding: gzip\r\n\r\n", hidden}, "501"},
		"a folded header":     {[]string{post, "X: a\r\n b\r\nContent-Length: 0\r\n\r\n"}, "400"},
		"a space in a name":   {[]string{post, "X : a\r\nContent-Length: 0\r\n\r\n"}, "400"},
		"a negative length":   {[]string{post, "Content-Length: -1\r\n\r\n"}, "400"},
		"two content types": {[]string{post,
			fmt.Sprintf("Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(body), body)}, "400"},
		"two content encodings": {[]string{post,
			fmt.Sprintf("Content-Encoding: gzip\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", len(body),
				body)}, "415"},
		"two idempotency keys": {[]string{post,
			fmt.Sprintf("Idempotency-Key: a\r\nIdempotency-Key: b\r\nContent-Length: %d\r\n\r\n%s", len(body), body)},
			"400"},
		"two authorizations": {[]string{post, fmt.Sprintf("Authorization: Bearer x\r\nContent-Length: %d\r\n\r\n%s",
			len(body), body)}, "401"},
		"a body that ends early": {[]string{post, "Content-Length: 1000\r\n\r\n" + body}, "400"},
		"chunks that end early":  {[]string{post, "Transfer-Encoding: chunked\r\n\r\nff\r\n" + body}, "400"},
		"not HTTP":               {[]string{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"}, "400"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := strings.Join(raw(t, f, test.parts...), " "); got != test.want {
				t.Errorf("answered %q, want %q", got, test.want)
			}
		})
	}
	t.Cleanup(func() {
		if f.queue.submitted() > 0 {
			t.Error("something was queued")
		}
	})
}

// Bodies that are made to take memory or time are refused, or fail an item, and
// take little of either. Nothing runs beside it, for what is allocated is counted.
func TestCreate_Bombs(t *testing.T) {
	f := startFront(t)
	token := f.token(t)
	zip := func(text io.Reader) []byte {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		if _, err := io.Copy(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return packed.Bytes()
	}
	spaces := func(n int64) io.Reader { return io.LimitReader(&repeated{text: "    "}, n) }
	for _, test := range []struct {
		name   string
		body   io.Reader
		gzip   bool
		status int
		says   string
	}{
		{"1000 to 1", bytes.NewReader(zip(spaces(64 << 20))), true, 413, "32 MiB"},
		{"1000 to 1 of 1000 to 1", bytes.NewReader(zip(bytes.NewReader(zip(spaces(64 << 20))))), true, 400, ""},
		{"100,000 deep", strings.NewReader(strings.Repeat("[", 100_000)), false, 400, "deep"},
		{"100,000 objects deep", strings.NewReader("[" + strings.Repeat(`{"a":`, 100_000)), false, 400, "deep"},
		{"a million digits", strings.NewReader(`[{"partner_client_id":"a","entity_type":"X","revenue_claims":[{"total_amount":` + strings.Repeat("9", 1_000_000) + `}]}]`), false, 200, `"state":"Failed"`},
		{"an exponent of a million digits",
			strings.NewReader(`[{"partner_client_id":"a","entity_type":"X","revenue_claims":[{"total_amount":1e` +
				strings.Repeat("9", 1_000_000) + `}]}]`), false, 200, `"state":"Failed"`},
		{"a million members", strings.NewReader(`[{"partner_client_id":"a"` + strings.Repeat(`,"x":1`,
			1_000_000) + `}]`), false, 200, `"state":"Failed"`},
		{"a string of 30 MiB", io.MultiReader(strings.NewReader(`[{"partner_client_id":"`),
			io.LimitReader(&repeated{text: `\u0041`}, 30<<20/6*6), strings.NewReader(`"}]`)), false, 200,
			`"state":"Failed"`},
		{"chunks without end", &repeated{text: "[      "}, false, 413, "32 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := f.create(t, token, test.body)
			request.ContentLength = -1
			if test.gzip {
				request.Header.Set("Content-Encoding", "gzip")
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			a, err := f.try(request)
			if err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if test.status >= 400 {
				a.checkProblem(t, test.status, test.says)
			} else if a.status != test.status || !strings.Contains(a.String(), test.says) {
				t.Errorf("answered %d %.300s", a.status, a.Bytes())
			}
			// All that was allocated, of which the front keeps to its budget at a time.
			if used := after.TotalAlloc - before.TotalAlloc; used > 16*intake.MaxBodyBytes {
				t.Errorf("took %d MiB", used>>20)
			}
		})
	}
	localtest.Eventually(t, "all memory is given back", func() bool { return f.Inflight() == 0 })
}

// certify writes a certificate for 127.0.0.1 and its key.
func certify(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert},
		keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// One host doesn't hold all the connections that there may be: further ones of it are
// hung up on, those of other hosts and of proxies are not. With TLS as well.
func TestServe_ConnectionsOfOneHost(t *testing.T) {
	t.Parallel()
	const most = 50
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certify(t, certFile, keyFile, "one.test")
	certificate, err := front.LoadCertificate(certFile, keyFile, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	for name, certificate := range map[string]*front.Certificate{"plain": nil, "TLS": certificate} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := prometheus.NewRegistry()
			f := newFront(t, func(o *front.Options) {
				o.MaxConnectionsPerAddress, o.Certificate, o.Registerer = most, certificate, registry
				o.Proxies = origin.Proxies{netip.MustParsePrefix("127.0.0.9/32")}
			})
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			f.serve(t, listener, new(net.Dialer).DialContext)
			// from opens a connection, and reports whether a request over it is answered.
			from := func(address string) (net.Conn, bool) {
				t.Helper()
				dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
				conn, err := dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
				if certificate != nil {
					conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				}
				if _, err := io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
					return conn, false
				}
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				return conn, err == nil && response.StatusCode == http.StatusOK
			}
			open := func(address string) bool {
				t.Helper()
				_, answered := from(address)
				return answered
			}
			first, _ := from("127.0.0.1")
			for n := range most - 1 {
				if !open("127.0.0.1") {
					t.Fatalf("connection %d is refused", n+2)
				}
			}
			for range 3 {
				if open("127.0.0.1") {
					t.Error("a connection too many is answered")
				}
			}
			if !open("127.0.0.2") {
				t.Error("another host is refused")
			}
			for n := range most + 1 {
				if !open("127.0.0.9") {
					t.Fatalf("a proxy's connection %d is refused", n+1)
				}
			}
			if refused := counted(t, registry, "intake_front_connections_refused_total"); refused != 3 {
				t.Errorf("%v connections are counted as refused, want 3", refused)
			}
			first.Close()
			localtest.Eventually(t, "another connection may be opened", func() bool { return open("127.0.0.1") })
		})
	}
}

// TLS from 1.2 on, HTTP/2 or 1.1; a certificate that is replaced is taken up, and
// one that can't be read is not.
func TestServe_TLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if _, err := front.LoadCertificate(certFile, keyFile, zap.NewNop()); err == nil {
		t.Error("a certificate that isn't there was read")
	}
	certify(t, certFile, keyFile, "one.test")
	certificate, err := front.LoadCertificate(certFile, keyFile, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	f := newFront(t, func(o *front.Options) { o.Certificate = certificate })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, listener, new(net.Dialer).DialContext)
	address := listener.Addr().String()
	name := func() string {
		t.Helper()
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].DNSNames[0]
	}
	if got := name(); got != "one.test" {
		t.Error(got)
	}
	if conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10,
		MaxVersion: tls.VersionTLS11}); err == nil {
		conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
	for proto, transport := range map[string]*http.Transport{
		"HTTP/2.0": {TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true},
		"HTTP/1.1": {TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, TLSNextProto: map[string]func(string,
			*tls.Conn) http.RoundTripper{}},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/livez", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		transport.CloseIdleConnections()
		if response.Proto != proto || response.StatusCode != http.StatusOK {
			t.Errorf("%s %s, want %s", response.Proto, response.Status, proto)
		}
	}
	certificate.LookAgain()
	if err := os.WriteFile(keyFile, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "one.test" {
		t.Errorf("a broken one: %s", got)
	}
	certify(t, certFile, keyFile, "two.test")
	certificate.LookAgain()
	if got := name(); got != "two.test" {
		t.Errorf("the new one is not taken up: %s", got)
	}
}

// counted reads a counter.
func counted(t testing.TB, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.Metric {
			if family.GetName() == name {
				return metric.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}
