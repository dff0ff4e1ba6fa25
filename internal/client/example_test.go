package client_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"intake/internal/client"
)

// A batch is sent, and each item's state is read from the answer. The server
// answers as a front does.
func ExampleClient_Create() {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /oauth/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token":"a-token","token_type":"Bearer","expires_in":3600}`)
	})
	mux.HandleFunc("POST /api/v1/clients", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"status_check_id":"01939f2e-6f4b-7c51-9d3c-8f6a5c1e7b20","status":"Completed","result":[
			{"status":{"state":"Completed","code":"saved","validation_errors":""}},
			{"status":{"state":"Failed","code":"invalid","validation_errors":"entity_type: required"}}]}`)
	})
	front := httptest.NewServer(mux)
	defer front.Close()

	c, err := client.New(client.Options{URL: front.URL, ClientID: "acme", ClientSecret: "secret"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	batch := []byte(`[{"partner_client_id":"1b7901db","entity_type":"SoleTrader"}, {"partner_client_id":"2c8a12ec"}]`)
	answer, err := c.Create(context.Background(), batch, client.BatchOptions{Prefer: "wait=30, return=minimal"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, item := range answer.Result {
		fmt.Printf("%d %s %s %q\n", i, item.Status.State, item.Status.Code, item.Status.Reason)
	}
	// Output:
	// 0 Completed saved ""
	// 1 Failed invalid "entity_type: required"
}
