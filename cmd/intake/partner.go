package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"intake"
	"intake/cmd/intake/internal/front"
	"intake/sink"
)

type partnerCommand struct {
	PostgresURL string `name:"postgres-url" required:"" help:"Database that holds the partners."`
	JSON        bool   `name:"json" help:"Print JSON, for programs."`

	Add     partnerAddCommand     `cmd:"" help:"Add a partner, and print its client secret, which is shown only this once."`
	List    partnerListCommand    `cmd:"" help:"List the partners."`
	Rotate  partnerRotateCommand  `cmd:"" help:"Give a partner a new client secret. The old one gets no more tokens; those it got last until they expire."`
	Disable partnerDisableCommand `cmd:"" help:"Shut a partner out: within 5 s it gets no tokens, and those it holds are refused."`
	Enable  partnerEnableCommand  `cmd:"" help:"Let a disabled partner in again."`
}

// open connects to the partners' database.
func (c *partnerCommand) open(ctx context.Context) (*sink.Store, error) {
	store, err := sink.Open(ctx, sink.Options{URL: c.PostgresURL, MaxConns: 1})
	if err != nil {
		return nil, err
	}
	if err := store.Ping(ctx); err != nil {
		store.Close()
		return nil, fmt.Errorf("reach the partners in Postgres (has intake migrate run?): %w", err)
	}
	return store, nil
}

const partnerTimeout = 15 * time.Second

type partnerAddCommand struct {
	Name        string   `arg:"" help:"Name of the partner, which is its OAuth2 client id: lower-case letters, digits and hyphens, at most 63."`
	Currency    string   `required:"" help:"Currency agreed with the partner, ISO 4217, as in GBP."`
	EntityTypes []string `env:"-" help:"What entity_type may be, separated by commas; anything well-formed if not given."`
}

func (c partnerAddCommand) Run(ctx context.Context, all *commands, out output) error {
	switch {
	case !intake.ValidPartnerName(c.Name):
		return fmt.Errorf("%q is no partner's name: use lower-case letters, digits and hyphens, not a hyphen first, at most 63", c.Name)
	case !intake.ValidCurrency(c.Currency):
		return fmt.Errorf("%q is no ISO 4217 currency: use a code like GBP", c.Currency)
	}
	for _, t := range c.EntityTypes {
		if !intake.ValidEntityType(t) {
			return fmt.Errorf("%q is no entity type: use letters and digits, a letter first, at most 64", t)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, partnerTimeout)
	defer cancel()
	store, err := all.Partner.open(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	secret, hash := front.NewSecret()
	partner, err := store.AddPartner(ctx, intake.Partner{Name: c.Name, Currency: c.Currency, EntityTypes: c.EntityTypes}, hash)
	if errors.Is(err, sink.ErrPartnerExists) {
		return fmt.Errorf("there is a partner %s already: choose another name, or give it a new secret with intake partner rotate", c.Name)
	}
	if err != nil {
		return err
	}
	return printSecret(out, all.Partner.JSON, partner.Name, secret)
}

// printSecret shows a client's credentials, the only time that they are known.
func printSecret(out output, asJSON bool, name, secret string) error {
	if asJSON {
		return json.NewEncoder(out).Encode(map[string]string{"client_id": name, "client_secret": secret})
	}
	_, err := fmt.Fprintf(out, "client id      %s\nclient secret  %s\n\nThe secret is shown only this once.\n", name, secret)
	return err
}

type partnerRotateCommand struct {
	Name string `arg:"" help:"Name of the partner."`
}

func (c partnerRotateCommand) Run(ctx context.Context, all *commands, out output) error {
	secret, hash := front.NewSecret()
	err := all.Partner.change(ctx, c.Name, func(ctx context.Context, store *sink.Store) error {
		return store.SetSecret(ctx, c.Name, hash)
	})
	if err != nil {
		return err
	}
	return printSecret(out, all.Partner.JSON, c.Name, secret)
}

type partnerDisableCommand struct {
	Name string `arg:"" help:"Name of the partner."`
}

func (c partnerDisableCommand) Run(ctx context.Context, all *commands, out output) error {
	return all.Partner.setDisabled(ctx, c.Name, true, out)
}

type partnerEnableCommand struct {
	Name string `arg:"" help:"Name of the partner."`
}

func (c partnerEnableCommand) Run(ctx context.Context, all *commands, out output) error {
	return all.Partner.setDisabled(ctx, c.Name, false, out)
}

func (c *partnerCommand) setDisabled(ctx context.Context, name string, disabled bool, out output) error {
	err := c.change(ctx, name, func(ctx context.Context, store *sink.Store) error {
		return store.SetDisabled(ctx, name, disabled)
	})
	switch {
	case err != nil:
		return err
	case c.JSON:
		return json.NewEncoder(out).Encode(map[string]any{"client_id": name, "disabled": disabled})
	case disabled:
		_, err = fmt.Fprintf(out, "%s is disabled\n", name)
	default:
		_, err = fmt.Fprintf(out, "%s is enabled\n", name)
	}
	return err
}

func (c *partnerCommand) change(ctx context.Context, name string, change func(context.Context, *sink.Store) error) error {
	ctx, cancel := context.WithTimeout(ctx, partnerTimeout)
	defer cancel()
	store, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	err = change(ctx, store)
	if errors.Is(err, sink.ErrNoPartner) {
		return fmt.Errorf("there is no partner %q: intake partner list shows them", name)
	}
	return err
}

type partnerListCommand struct{}

func (partnerListCommand) Run(ctx context.Context, all *commands, out output) error {
	ctx, cancel := context.WithTimeout(ctx, partnerTimeout)
	defer cancel()
	store, err := all.Partner.open(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	partners, err := store.Partners(ctx)
	if err != nil {
		return err
	}
	if all.Partner.JSON {
		return listJSON(out, partners)
	}
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"partner", "currency", "entity types", "state", "since"})
	for _, p := range partners {
		types, state := "any", "enabled"
		if len(p.EntityTypes) > 0 {
			types = strings.Join(p.EntityTypes, ", ")
		}
		if p.Disabled {
			state = "disabled"
		}
		t.AppendRow(table.Row{p.Name, p.Currency, types, state, p.CreatedAt.UTC().Format(time.DateTime)})
	}
	t.Render()
	return nil
}

func listJSON(out output, partners []sink.PartnerRecord) error {
	type entry struct {
		ClientID    string    `json:"client_id"`
		Currency    string    `json:"currency"`
		EntityTypes []string  `json:"entity_types"`
		Disabled    bool      `json:"disabled"`
		CreatedAt   time.Time `json:"created_at"`
	}
	entries := make([]entry, len(partners))
	for i, p := range partners {
		entries[i] = entry{p.Name, p.Currency, p.EntityTypes, p.Disabled, p.CreatedAt.UTC()}
	}
	return json.NewEncoder(out).Encode(entries)
}
