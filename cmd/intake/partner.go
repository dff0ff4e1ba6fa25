package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jedib0t/go-pretty/v6/table"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/sink"
)

type partnerCommand struct {
	PostgresURL string `name:"postgres-url" required:"" help:"Database that holds the partners."`
	JSON        bool   `name:"json" env:"-" help:"Print JSON, for programs."`

	Add     partnerAddCommand     `cmd:"" help:"Add a partner, and print its client secret, which is shown only this once."`
	List    partnerListCommand    `cmd:"" help:"List the partners."`
	Show    partnerShowCommand    `cmd:"" help:"Show a partner, with its limits."`
	Set     partnerSetCommand     `cmd:"" help:"Change the limits of a partner. All fronts apply them within 5 s."`
	Rotate  partnerRotateCommand  `cmd:"" help:"Make a new client secret for a partner. The old one works for --overlap longer; tokens stay valid until they expire."`
	Disable partnerDisableCommand `cmd:"" help:"Disable a partner: within 5 s it gets no tokens, and its tokens are refused."`
	Enable  partnerEnableCommand  `cmd:"" help:"Enable a disabled partner again."`
}

// openRegistry connects to the database of the partners and the signing keys.
func openRegistry(ctx context.Context, url string) (*sink.Store, error) {
	store, err := sink.Open(ctx, sink.Options{URL: url, MaxConns: 1})
	if err != nil {
		return nil, err
	}
	if err := store.Ping(ctx); err != nil {
		store.Close()
		return nil, hintSchema(fmt.Errorf("read the partners in Postgres: %w", err))
	}
	return store, nil
}

// hintSchema adds a hint to an error if a table or a column is missing.
func hintSchema(err error) error {
	const undefinedTable, undefinedColumn = "42P01", "42703"
	var refused *pgconn.PgError
	if errors.As(err, &refused) && (refused.Code == undefinedTable || refused.Code == undefinedColumn) {
		return fmt.Errorf("%w (has intake migrate run?)", err)
	}
	return err
}

const partnerTimeout = 15 * time.Second

type partnerAddCommand struct {
	Name        string   `arg:"" help:"Name of the partner, which is its OAuth2 client id: lower-case letters, digits and hyphens, at most 63."`
	Currency    string   `required:"" env:"-" help:"Currency agreed with the partner, ISO 4217, as in GBP."`
	EntityTypes []string `env:"-" help:"Allowed values of entity_type, separated by commas. The default is any well-formed one."`
}

func (c partnerAddCommand) Run(ctx context.Context, all *commands, out output) error {
	switch {
	case !intake.ValidPartnerName(c.Name):
		return fmt.Errorf("%q is no partner name: use lower-case letters, digits and hyphens, not a hyphen first, at most 63", c.Name)
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
	store, err := openRegistry(ctx, all.Partner.PostgresURL)
	if err != nil {
		return err
	}
	defer store.Close()
	secret, hash := auth.NewSecret()
	partner, err := store.AddPartner(ctx, intake.Partner{Name: c.Name, Currency: c.Currency,
		EntityTypes: c.EntityTypes}, hash)
	if errors.Is(err, sink.ErrPartnerExists) {
		return fmt.Errorf("there is a partner %s already: choose another name, or make a new secret with intake partner rotate", c.Name)
	}
	if err != nil {
		return err
	}
	return clientSecret{ClientID: partner.Name, Secret: secret}.print(out, all.Partner.JSON)
}

// A clientSecret is a partner's credentials as they are shown, once.
type clientSecret struct {
	ClientID       string     `json:"client_id"`
	Secret         string     `json:"client_secret"`
	OldSecretUntil *time.Time `json:"old_secret_until,omitempty"`
}

func (c clientSecret) print(out output, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(c)
	}
	_, err := fmt.Fprintf(out, "client id      %s\nclient secret  %s\n\nThe secret is shown only this once.\n",
		c.ClientID, c.Secret)
	if err == nil && c.OldSecretUntil != nil {
		_, err = fmt.Fprintf(out, "The old one works until %s UTC.\n", c.OldSecretUntil.Format(time.DateTime))
	}
	return err
}

type partnerRotateCommand struct {
	Name    string        `arg:"" help:"Name of the partner."`
	Overlap time.Duration `env:"-" default:"24h" help:"How long the old secret still works, at most. 0: it and all earlier ones stop working within 5 s."`
}

func (c partnerRotateCommand) Run(ctx context.Context, all *commands, out output) error {
	if c.Overlap < 0 {
		return fmt.Errorf("--overlap %s: it must be 0 or more", c.Overlap)
	}
	secret, hash := auth.NewSecret()
	fresh := clientSecret{ClientID: c.Name, Secret: secret}
	err := all.Partner.change(ctx, c.Name, func(ctx context.Context, store *sink.Store) error {
		until, err := store.RotateSecret(ctx, c.Name, hash, c.Overlap)
		if c.Overlap > 0 {
			fresh.OldSecretUntil = utc(until)
		}
		return err
	})
	if err != nil {
		return err
	}
	return fresh.print(out, all.Partner.JSON)
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

func (c *partnerCommand) change(ctx context.Context, name string,
	change func(context.Context, *sink.Store) error) error {
	ctx, cancel := context.WithTimeout(ctx, partnerTimeout)
	defer cancel()
	store, err := openRegistry(ctx, c.PostgresURL)
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

// A partnerEntry is a partner as it is shown.
type partnerEntry struct {
	ClientID    string    `json:"client_id"`
	Currency    string    `json:"currency"`
	EntityTypes []string  `json:"entity_types"`
	Disabled    bool      `json:"disabled"`
	CreatedAt   time.Time `json:"created_at"`
	// OldSecretUntil is when the last of the earlier secrets stops working.
	OldSecretUntil *time.Time `json:"old_secret_until"`
	Limits         limitEntry `json:"limits"`
}

// A limitEntry is a partner's limits; 0 is no limit.
type limitEntry struct {
	ItemsPerSecond int   `json:"items_per_second"`
	Burst          int   `json:"burst"`
	Requests       int   `json:"requests"`
	Bytes          int64 `json:"bytes"`
}

func newPartnerEntry(p *sink.PartnerRecord) partnerEntry {
	l := p.Limits
	return partnerEntry{
		ClientID: p.Name, Currency: p.Currency, EntityTypes: p.EntityTypes, Disabled: p.Disabled,
		CreatedAt:      p.CreatedAt.UTC(),
		OldSecretUntil: utc(p.OldSecretUntil), Limits: limitEntry{l.ItemsPerSecond, l.Burst, l.Requests, l.Bytes},
	}
}

// utc returns a time in UTC, nil for the zero time.
func utc(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// shownTime formats a time for a table; none is the text for nil.
func shownTime(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return t.Format(time.DateTime)
}

// find returns a partner by its name.
func (c *partnerCommand) find(ctx context.Context, store *sink.Store, name string) (*sink.PartnerRecord, error) {
	partners, err := store.Partners(ctx)
	if err != nil {
		return nil, err
	}
	for i := range partners {
		if partners[i].Name == name {
			return &partners[i], nil
		}
	}
	return nil, sink.ErrNoPartner
}

type partnerShowCommand struct {
	Name string `arg:"" help:"Name of the partner."`
}

func (c partnerShowCommand) Run(ctx context.Context, all *commands, out output) error {
	return all.Partner.change(ctx, c.Name, func(ctx context.Context, store *sink.Store) error {
		return all.Partner.show(ctx, store, c.Name, out)
	})
}

func (c *partnerCommand) show(ctx context.Context, store *sink.Store, name string, out output) error {
	partner, err := c.find(ctx, store, name)
	if err != nil {
		return err
	}
	p := newPartnerEntry(partner)
	if c.JSON {
		return json.NewEncoder(out).Encode(p)
	}
	none := func(n int64) string {
		if n == 0 {
			return "no limit"
		}
		return strconv.FormatInt(n, 10)
	}
	types, state := "any", "enabled"
	if len(p.EntityTypes) > 0 {
		types = strings.Join(p.EntityTypes, ", ")
	}
	if p.Disabled {
		state = "disabled"
	}
	_, err = fmt.Fprintf(out,
		"partner              %s\ncurrency             %s\nentity types         %s\nstate                %s\nsince                %s\n"+
			"old secret until     %s\nitems a second       %s\nburst, items         %s\nrequests in flight   %s\nbytes in flight      %s\n",
		p.ClientID, p.Currency, types, state, p.CreatedAt.Format(time.DateTime), shownTime(p.OldSecretUntil, "none"),
		none(int64(p.Limits.ItemsPerSecond)), none(int64(p.Limits.Burst)), none(int64(p.Limits.Requests)),
		none(p.Limits.Bytes))
	return err
}

type partnerSetCommand struct {
	Name           string `arg:"" help:"Name of the partner."`
	ItemsPerSecond *int   `env:"-" help:"Items a second in the long run; 0: no limit."`
	Burst          *int   `env:"-" help:"Items that may come in one go after a pause; at least 10,000, as a batch may have so many. The default is the larger of that and the items of two seconds."`
	Requests       *int   `env:"-" help:"Most requests in flight, open streams included; 0: no limit."`
	Bytes          *int64 `env:"-" help:"Most bytes in flight, of requests or lines of streams after decompression; 0: no limit."`
}

func (c partnerSetCommand) Run(ctx context.Context, all *commands, out output) error {
	return all.Partner.change(ctx, c.Name, func(ctx context.Context, store *sink.Store) error {
		partner, err := all.Partner.find(ctx, store, c.Name)
		if err != nil {
			return err
		}
		limits, err := c.limits(partner.Limits)
		if err != nil {
			return err
		}
		if err := store.SetLimits(ctx, c.Name, limits); err != nil {
			return err
		}
		return all.Partner.show(ctx, store, c.Name, out)
	})
}

// limits changes those limits that were given.
func (c partnerSetCommand) limits(l intake.Limits) (intake.Limits, error) {
	if c.ItemsPerSecond == nil && c.Burst == nil && c.Requests == nil && c.Bytes == nil {
		return l, errors.New("nothing to set: specify --items-per-second, --burst, --requests or --bytes")
	}
	if c.ItemsPerSecond != nil {
		l.ItemsPerSecond, l.Burst = *c.ItemsPerSecond, max(2**c.ItemsPerSecond, intake.MaxBatchItems)
	}
	if c.Burst != nil {
		l.Burst = *c.Burst
	}
	if c.Requests != nil {
		l.Requests = *c.Requests
	}
	if c.Bytes != nil {
		l.Bytes = *c.Bytes
	}
	const most = 1 << 30
	switch {
	case l.ItemsPerSecond < 0 || l.Burst < 0 || l.Requests < 0 || l.Bytes < 0 || l.ItemsPerSecond > most ||
		l.Burst > most || l.Requests > most:
		return l, fmt.Errorf("limits are between 0 and %d", most)
	case l.ItemsPerSecond == 0:
		l.Burst = 0
	case l.Burst < intake.MaxBatchItems:
		return l, fmt.Errorf("--burst %d: it must be at least %d, as a batch may have so many items", l.Burst,
			intake.MaxBatchItems)
	}
	return l, nil
}

type partnerListCommand struct{}

func (partnerListCommand) Run(ctx context.Context, all *commands, out output) error {
	ctx, cancel := context.WithTimeout(ctx, partnerTimeout)
	defer cancel()
	store, err := openRegistry(ctx, all.Partner.PostgresURL)
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
	t.AppendHeader(table.Row{"partner", "currency", "entity types", "state", "since", "old secret until"})
	for _, p := range partners {
		types, state := "any", "enabled"
		if len(p.EntityTypes) > 0 {
			types = strings.Join(p.EntityTypes, ", ")
		}
		if p.Disabled {
			state = "disabled"
		}
		t.AppendRow(table.Row{p.Name, p.Currency, types, state, p.CreatedAt.UTC().Format(time.DateTime),
			shownTime(utc(p.OldSecretUntil), "")})
	}
	t.Render()
	return nil
}

func listJSON(out output, partners []sink.PartnerRecord) error {
	entries := make([]partnerEntry, len(partners))
	for i := range partners {
		entries[i] = newPartnerEntry(&partners[i])
	}
	return json.NewEncoder(out).Encode(entries)
}
