package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"intake/internal/local/localtest"
)

// TestMain makes this program the peers' processes, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && slices.Contains(peers, os.Args[1]) {
		if err := run(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// startTestPeers starts Postgres and all peers.
func startTestPeers(t *testing.T) (all []*system) {
	t.Helper()
	b := &bench{dir: localtest.Dir(t)}
	t.Cleanup(b.stop)
	if err := b.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range peers {
		s, err := b.startPeer(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

type peerAnswer struct {
	Result []struct {
		Data   json.RawMessage
		Status struct{ Code string }
	}
}

func (a *peerAnswer) codes() (codes []string) {
	for _, result := range a.Result {
		codes = append(codes, result.Status.Code)
	}
	return codes
}

func postTo(s *system, prefer, body string) (*peerAnswer, error) {
	request, err := http.NewRequest(http.MethodPost, s.url+"/api/v1/clients", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Prefer", prefer)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s is answered %s", body, response.Status)
	}
	a := new(peerAnswer)
	return a, json.NewDecoder(response.Body).Decode(a)
}

const testClaim = `{"start_date":"2025-02-01T00:00:00.000Z","end_date":"2025-02-28T23:59:59.999Z",` +
	`"time_period":"Monthly","currency":"GBP","total_amount":-12.34,"transaction_count":-1}`

// A peer that answered too much, or saved too little, would not be measured fairly.
func TestPeers(t *testing.T) {
	for _, s := range startTestPeers(t) {
		t.Run(s.name, func(t *testing.T) {
			halfMonth := strings.Replace(testClaim, "28T", "14T", 1)
			items := []string{
				`{"partner_client_id":"one","client_start_date":"2024-04-23T13:44:03.585Z","entity_type":"SoleTrader",` +
					`"other_identifiers":[{"key":"MerchantId","values":["1"]}],"revenue_claims":[` + testClaim + `,` +
					testClaim + `]}`,
				`{"partner_client_id":"two","entity_type":"SoleTrader"}`,
				`{"partner_client_id":"two","entity_type":"SoleTrader"}`,
				`{"partner_client_id":"three","entity_type":"SoleTrader"}`,
				`{"partner_client_id":"three","entity_type":"Charity"}`,
				`{"partner_client_id":"four"}`,
				`{"partner_client_id":"five","entity_type":"SoleTrader","revenue_claims":[` + halfMonth + `]}`,
				`{"entity_type":"SoleTrader"}`,
			}
			want := []string{
				"saved", "saved", "duplicate_in_request", "conflict_in_request", "conflict_in_request",
				"invalid", "invalid", "invalid",
			}
			body := "[" + strings.Join(items, ", ") + "]"
			got, err := postTo(s, "wait=30", body)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.codes()); diff != "" {
				t.Errorf("codes, -want +got:\n%s", diff)
			}
			for i, result := range got.Result {
				if string(result.Data) != items[i] {
					t.Errorf("item %d is echoed as %s", i, result.Data)
				}
			}
			if got, err = postTo(s, "return=minimal", body); err != nil {
				t.Fatal(err)
			}
			want[0], want[1] = "duplicate_of_saved", "duplicate_of_saved"
			if diff := cmp.Diff(want, got.codes()); diff != "" {
				t.Errorf("codes of the second request, -want +got:\n%s", diff)
			}
			if data := got.Result[0].Data; data != nil {
				t.Errorf("return=minimal is answered with data: %s", data)
			}
			const kept = `
				select string_agg(concat_ws(' ',
				           partner_client_id,
				           to_char(client_start_date at time zone 'utc', 'HH24:MI:SS.MS'),
				           other_identifiers,
				           (select sum(total_amount) from claims where client_id = clients.id)
				       ), '; ' order by clients.id)
				  from clients`
			var text string
			if err := s.conn.QueryRow(t.Context(), kept).Scan(&text); err != nil {
				t.Fatal(err)
			}
			if want := `one 13:44:03.585 [{"key": "MerchantId", "values": ["1"]}] -24.6800; two`; text != want {
				t.Errorf("kept is\n%s, want\n%s", text, want)
			}
		})
	}
}

// Requests that share a transaction must each get the codes of their own items.
func TestPeers_Concurrent(t *testing.T) {
	for _, s := range startTestPeers(t) {
		t.Run(s.name, func(t *testing.T) {
			const requests, items = 200, 20
			var saved, others atomic.Int64
			var wg sync.WaitGroup
			for n := range requests {
				wg.Go(func() {
					var batch []string
					for i := range items {
						const item = `{"partner_client_id":"%d","entity_type":"A","revenue_claims":[%s]}`
						batch = append(batch, fmt.Sprintf(item, n*items/2+i, testClaim))
					}
					got, err := postTo(s, "return=minimal", "["+strings.Join(batch, ",")+"]")
					if err != nil {
						t.Error(err)
						return
					}
					for _, code := range got.codes() {
						switch code {
						case "saved":
							saved.Add(1)
						case "duplicate_of_saved":
							others.Add(1)
						default:
							t.Errorf("an item has the code %s", code)
						}
					}
				})
			}
			wg.Wait()
			var clients, claims int64
			const counts = "select (select count(*) from clients), (select count(*) from claims)"
			if err := s.conn.QueryRow(t.Context(), counts).Scan(&clients, &claims); err != nil {
				t.Fatal(err)
			}
			const different = (requests + 1) * items / 2
			if clients != different || claims != different || saved.Load() != different ||
				others.Load() != requests*items-different {
				t.Errorf("%d clients with %d claims are kept, %d were answered saved and %d not; want %d of each but the last",
					clients, claims, saved.Load(), others.Load(), different)
			}
		})
	}
}

func TestParseAmount(t *testing.T) {
	for text, want := range map[string]string{
		"0": "0.0000", "-12.34": "-12.3400", "1.5": "1.5000", "999999999999999.9999": "999999999999999.9999",
		"1000000000000000": "", "1.00001": "", "15e-1": "", "": "", "x": "",
	} {
		n, ok := parseAmount(text)
		value, err := n.Value()
		if err != nil || ok != (want != "") || ok && value != want {
			t.Errorf("%q is %v, %t (%v), want %q", text, value, ok, err, want)
		}
	}
}
