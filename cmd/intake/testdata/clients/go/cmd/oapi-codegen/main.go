// Command oapi-codegen sends a batch with the amounts that are its arguments, and
// asks what became of it, with a client that oapi-codegen has made.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"

	"clients/oapi"
)

func main() {
	log.SetFlags(0)
	ctx := context.Background()
	client, err := oapi.NewClientWithResponses(os.Getenv("INTAKE_URL"))
	check(err)
	name, secret := os.Getenv("INTAKE_CLIENT_ID"), os.Getenv("INTAKE_CLIENT_SECRET")
	token, err := client.IssueTokenWithFormdataBodyWithResponse(ctx, oapi.TokenRequest{
		GrantType: oapi.ClientCredentials, ClientId: &name, ClientSecret: &secret,
	})
	check(err)
	if token.JSON200 == nil {
		log.Fatalf("no token: %s", token.Body)
	}
	bearer := authorize(token.JSON200.AccessToken)

	created, err := client.CreateClientsWithResponse(ctx, nil, batch(os.Args[1:]), bearer)
	check(err)
	if created.JSON200 == nil {
		log.Fatalf("answered %d: %s", created.StatusCode(), created.Body)
	}
	report("answer", created.JSON200)
	status, err := client.CheckStatusWithResponse(ctx, *created.JSON200.StatusCheckId, nil, bearer)
	check(err)
	if status.JSON200 == nil {
		log.Fatalf("answered %d: %s", status.StatusCode(), status.Body)
	}
	report("status", status.JSON200)
	record, err := client.GetRecordWithResponse(ctx, "oapi-codegen-0", bearer)
	check(err)
	if record.JSON200 == nil {
		log.Fatalf("answered %d: %s", record.StatusCode(), record.Body)
	}
	same := record.JSON200.StatusCheckId == *created.JSON200.StatusCheckId
	fmt.Println("record", record.JSON200.PartnerClientId, record.JSON200.RevenueClaims, same)

	refused, err := client.CreateClientsWithResponse(ctx, nil, oapi.Batch{}, bearer)
	check(err)
	fmt.Println("refused", refused.ApplicationproblemJSON400.Status, refused.ApplicationproblemJSON400.Code)
	stranger, err := client.CreateClientsWithResponse(ctx, nil, batch(os.Args[1:]), authorize("x"))
	check(err)
	fmt.Println("refused", stranger.ApplicationproblemJSON401.Status, stranger.ApplicationproblemJSON401.Code)
}

func authorize(token string) oapi.RequestEditorFn {
	return func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}
}

func batch(amounts []string) (batch oapi.Batch) {
	for i, amount := range amounts {
		sales := int64(1)
		if strings.HasPrefix(amount, "-") {
			sales = -1
		}
		batch = append(batch, oapi.Item{
			PartnerClientId: fmt.Sprintf("oapi-codegen-%d", i), EntityType: "SoleTrader",
			RevenueClaims: &[]oapi.RevenueClaim{{
				StartDate: "2025-01-01T00:00:00.000Z", EndDate: "2025-01-31T23:59:59.999Z", TimePeriod: oapi.Monthly,
				Currency: "GBP", TotalAmount: json.Number(amount), TransactionCount: sales,
			}},
		})
	}
	return batch
}

func report(what string, answer *oapi.BatchAnswer) {
	for _, item := range answer.Result {
		var sent oapi.Item
		check(json.Unmarshal(*item.Data, &sent))
		fmt.Println(what, sent.PartnerClientId, item.Status.State, item.Status.Code,
			(*sent.RevenueClaims)[0].TotalAmount)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
