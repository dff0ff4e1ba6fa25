package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

type statusCommand struct {
	frontFlags
	ID   string `arg:"" name:"id" help:"The batch's status_check_id."`
	JSON bool   `name:"json" env:"-" help:"Print the front's answer as it came."`
}

// Run shows the items' states. It exits 1 while some are pending.
func (c statusCommand) Run(ctx context.Context, out output) error {
	front, err := c.connect()
	if err != nil {
		return err
	}
	defer front.Close()
	answer, err := front.Status(ctx, c.ID)
	if err != nil {
		return err
	}
	if c.JSON {
		_, err = fmt.Fprintf(out, "%s\n", bytes.TrimSpace(answer.Body))
	} else {
		t := table.NewWriter()
		t.SetOutputMirror(out)
		t.SetStyle(table.StyleLight)
		t.AppendHeader(table.Row{"item", "partner_client_id", "state", "code", "reason"})
		t.SetColumnConfigs([]table.ColumnConfig{{Name: "reason", WidthMax: 64}})
		for i, item := range answer.Result {
			var data struct {
				ID any `json:"partner_client_id"`
			}
			_ = json.Unmarshal(item.Data, &data) // an item that isn't an object has no id
			id := data.ID
			if id == nil {
				id = ""
			}
			t.AppendRow(table.Row{i, id, item.Status.State, item.Status.Code, item.Status.Reason})
		}
		t.Render()
		_, err = fmt.Fprintf(out, "the batch is %s\n", answer.Status)
	}
	if err == nil && !answer.IsFinal() {
		return exitStatus(statusFailed)
	}
	return err
}

type getCommand struct {
	frontFlags
	ID string `arg:"" name:"partner-client-id" help:"The partner client's id."`
}

func (c getCommand) Run(ctx context.Context, out output) error {
	front, err := c.connect()
	if err != nil {
		return err
	}
	defer front.Close()
	record, err := front.Record(ctx, c.ID)
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, bytes.TrimSpace(record), "", "  "); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	_, err = fmt.Fprintf(out, "%s\n", &indented)
	return err
}

type tokenCommand struct {
	frontFlags
	JSON bool `name:"json" env:"-" help:"Print JSON, with the moment at which the token expires."`
}

func (c tokenCommand) Run(ctx context.Context, out output) error {
	front, err := c.connect()
	if err != nil {
		return err
	}
	defer front.Close()
	token, err := front.Token(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(out).Encode(map[string]any{
			"access_token": token.AccessToken, "token_type": token.Type(),
			"expires_at": token.Expiry.UTC().Format(time.RFC3339),
		})
	}
	_, err = fmt.Fprintln(out, token.AccessToken)
	return err
}
