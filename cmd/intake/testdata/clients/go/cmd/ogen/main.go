// Command ogen sends a batch with the amounts that are its arguments, and asks
// what became of it, with a client that ogen has made.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/go-faster/jx"
	"github.com/ogen-go/ogen/ogenerrors"
	"github.com/shopspring/decimal"

	"clients/ogen"
)

// A source gives the access token. Who asks for that gives its credentials in the
// form, not in a header.
type source struct{ token string }

func (s source) OAuth2(context.Context, ogen.OperationName) (ogen.OAuth2, error) {
	return ogen.OAuth2{Token: s.token}, nil
}

func (s source) Basic(context.Context, ogen.OperationName) (ogen.Basic, error) {
	return ogen.Basic{}, ogenerrors.ErrSkipClientSecurity
}

func main() {
	log.SetFlags(0)
	ctx := context.Background()
	issued, err := client(source{}).IssueToken(ctx, &ogen.TokenRequest{
		GrantType:    ogen.TokenRequestGrantTypeClientCredentials,
		ClientID:     ogen.NewOptString(os.Getenv("INTAKE_CLIENT_ID")),
		ClientSecret: ogen.NewOptString(os.Getenv("INTAKE_CLIENT_SECRET")),
	})
	partner := client(source{as[*ogen.TokenHeaders](issued, err).Response.AccessToken})

	created, err := partner.CreateClients(ctx, batch(os.Args[1:]), ogen.CreateClientsParams{})
	answer := as[*ogen.BatchAnswerHeaders](created, err).Response
	report("answer", &answer)
	status, err := partner.CheckStatus(ctx, ogen.CheckStatusParams{StatusCheckID: answer.StatusCheckID.Value})
	report("status", &as[*ogen.CheckStatusOKHeaders](status, err).Response)
	found, err := partner.GetRecord(ctx, ogen.GetRecordParams{PartnerClientID: "ogen-0"})
	record := as[*ogen.RecordHeaders](found, err).Response
	fmt.Println("record", record.PartnerClientID, record.RevenueClaims,
		record.StatusCheckID == answer.StatusCheckID.Value)

	refused, err := partner.CreateClients(ctx, &ogen.Batch{}, ogen.CreateClientsParams{})
	empty := as[*ogen.BadRequestHeaders](refused, err).Response
	fmt.Println("refused", empty.Status, empty.Code)
	refused, err = client(source{"x"}).CreateClients(ctx, batch(os.Args[1:]), ogen.CreateClientsParams{})
	stranger := as[*ogen.UnauthorizedHeaders](refused, err).Response
	fmt.Println("refused", stranger.Status, stranger.Code)
}

func client(from source) *ogen.Client {
	client, err := ogen.NewClient(os.Getenv("INTAKE_URL"), from)
	if err != nil {
		log.Fatal(err)
	}
	return client
}

// as returns an answer as the one that is expected.
func as[T any](answer any, err error) T {
	expected, ok := answer.(T)
	if err != nil || !ok {
		log.Fatalf("answered %T %+v: %v", answer, answer, err)
	}
	return expected
}

func batch(amounts []string) *ogen.Batch {
	var batch ogen.Batch
	for i, text := range amounts {
		amount, err := decimal.NewFromString(text)
		if err != nil {
			log.Fatal(err)
		}
		batch = append(batch, ogen.Item{
			PartnerClientID: ogen.PartnerClientID(fmt.Sprintf("ogen-%d", i)), EntityType: "SoleTrader",
			RevenueClaims: ogen.NewOptNilRevenueClaimArray([]ogen.RevenueClaim{{
				StartDate: "2025-01-01T00:00:00.000Z", EndDate: "2025-01-31T23:59:59.999Z",
				TimePeriod: ogen.RevenueClaimTimePeriodMonthly, Currency: "GBP",
				TotalAmount: ogen.Amount(amount), TransactionCount: int64(amount.Sign()),
			}}),
		})
	}
	return &batch
}

func report(what string, answer *ogen.BatchAnswer) {
	for _, item := range answer.Result {
		var sent ogen.Item
		if err := sent.Decode(jx.DecodeBytes(item.Data)); err != nil {
			log.Fatal(err)
		}
		fmt.Println(what, sent.PartnerClientID, item.Status.State, item.Status.Code,
			decimal.Decimal(sent.RevenueClaims.Value[0].TotalAmount))
	}
}
