package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"intake/cmd/intake/internal/sender"
)

// sampleBatch has items of all four final states. RUN in it stands for what
// tells the clients of one demo from those of another.
//
//go:embed sample.json
var sampleBatch []byte

// sendSample sends the sample batch and shows the state of each item.
func sendSample(ctx context.Context, env map[string]string, out output) error {
	s, err := sender.New(sender.Options{
		URL: env["INTAKE_URL"], ClientID: env["INTAKE_CLIENT_ID"], ClientSecret: env["INTAKE_CLIENT_SECRET"],
		RetryFor: 30 * time.Second,
	})
	if err != nil {
		return err
	}
	defer s.Close()
	batch := bytes.ReplaceAll(sampleBatch, []byte("RUN"), strconv.AppendInt(nil, time.Now().Unix(), 36))
	var items []struct {
		ID     string            `json:"partner_client_id"`
		Claims []json.RawMessage `json:"revenue_claims"`
	}
	if err := json.Unmarshal(batch, &items); err != nil {
		return fmt.Errorf("read the sample batch: %w", err)
	}
	answer, err := s.Post(ctx, batch)
	if err != nil {
		return fmt.Errorf("send the sample batch: %w", err)
	}
	if len(answer.Result) != len(items) {
		return fmt.Errorf("the sample batch has %d items, its answer %d", len(items), len(answer.Result))
	}
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.SetTitle("A sample batch")
	t.AppendHeader(table.Row{"item", "partner_client_id", "claims", "state", "reason"})
	t.SetColumnConfigs([]table.ColumnConfig{{Name: "reason", WidthMax: 64}})
	for i, item := range items {
		status := answer.Result[i].Status
		t.AppendRow(table.Row{i, item.ID, len(item.Claims), status.State, status.Reason})
	}
	t.Render()
	return nil
}
