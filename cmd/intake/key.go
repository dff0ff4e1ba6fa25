package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"intake/sink"
)

type keyCommand struct {
	PostgresURL string `name:"postgres-url" required:"" help:"Database that holds the signing keys."`
	JSON        bool   `name:"json" env:"-" help:"Print JSON, for programs."`

	List   keyListCommand   `cmd:"" help:"List the keys whose access tokens are valid."`
	Rotate keyRotateCommand `cmd:"" help:"Make a new key, which signs from --after on. The old one stays until its last token has expired. All fronts must run this version."`
	Drop   keyDropCommand   `cmd:"" help:"Drop a key, as after a leak: within 5 s all its tokens are refused, expired or not."`
}

// with calls do with the store of the keys.
func (c *keyCommand) with(ctx context.Context, do func(context.Context, *sink.Store) error) error {
	ctx, cancel := context.WithTimeout(ctx, partnerTimeout)
	defer cancel()
	store, err := openRegistry(ctx, c.PostgresURL)
	if err != nil {
		return err
	}
	defer store.Close()
	return do(ctx, store)
}

// A keyEntry is a signing key as the commands show it.
type keyEntry struct {
	ID         string     `json:"kid"`
	State      string     `json:"state"` // waits, signs or verifies
	CreatedAt  time.Time  `json:"created_at"`
	SignsFrom  time.Time  `json:"signs_from"`
	SignsUntil *time.Time `json:"signs_until"`
	ValidUntil *time.Time `json:"valid_until"` // of its last token
}

func newKeyEntry(k *sink.SigningKey, now time.Time) keyEntry {
	entry := keyEntry{
		ID: k.ID, State: "verifies", CreatedAt: k.CreatedAt.UTC(), SignsFrom: k.SignsFrom.UTC(),
		SignsUntil: utc(k.SignsUntil),
	}
	switch {
	case k.Signs(now):
		entry.State = "signs"
	case now.Before(k.SignsFrom):
		entry.State = "waits"
	}
	if entry.SignsUntil != nil {
		entry.ValidUntil = utc(k.SignsUntil.Add(sink.KeyKept))
	}
	return entry
}

type keyListCommand struct{}

func (keyListCommand) Run(ctx context.Context, all *commands, out output) error {
	var entries []keyEntry
	if err := all.Key.with(ctx, func(ctx context.Context, store *sink.Store) error {
		keys, now, err := store.SigningKeys(ctx)
		for i := range keys {
			entries = append(entries, newKeyEntry(&keys[i], now))
		}
		return err
	}); err != nil {
		return err
	}
	if all.Key.JSON {
		return json.NewEncoder(out).Encode(entries)
	}
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"kid", "state", "signs from", "signs until", "valid until"})
	for _, e := range entries {
		from, until, valid := e.SignsFrom.Format(time.DateTime), shownTime(e.SignsUntil, ""),
			shownTime(e.ValidUntil, "")
		t.AppendRow(table.Row{e.ID, e.State, from, until, valid})
	}
	t.Render()
	return nil
}

type keyRotateCommand struct {
	After time.Duration `env:"-" default:"10m" help:"How long the new key is in the key set before it signs. Others that verify the tokens may cache the set for 5 min; the fronts need at least 10 s."`
}

func (c keyRotateCommand) Run(ctx context.Context, all *commands, out output) error {
	if c.After < 10*time.Second {
		return fmt.Errorf("--after %s: it must be at least 10s, so that all fronts know the key when it signs", c.After)
	}
	return all.Key.with(ctx, func(ctx context.Context, store *sink.Store) error {
		key, err := store.RotateKey(ctx, c.After)
		if errors.Is(err, sink.ErrKeyWaiting) {
			return fmt.Errorf("%w: intake key list shows it; rotate when it signs, or drop it", err)
		}
		if err != nil {
			return err
		}
		if all.Key.JSON {
			return json.NewEncoder(out).Encode(map[string]any{"kid": key.ID, "signs_from": key.SignsFrom.UTC()})
		}
		_, err = fmt.Fprintf(out, "%s signs from %s UTC\n", key.ID, key.SignsFrom.UTC().Format(time.DateTime))
		return err
	})
}

type keyDropCommand struct {
	ID    string `arg:"" name:"kid" help:"The key's kid, as list shows it; -- before one that begins with a hyphen."`
	Force bool   `env:"-" help:"Drop it even if it signs. Partners then need new tokens, and get none for up to 5 s."`
}

func (c keyDropCommand) Run(ctx context.Context, all *commands, out output) error {
	return all.Key.with(ctx, func(ctx context.Context, store *sink.Store) error {
		next, err := store.DropKey(ctx, c.ID, c.Force)
		switch {
		case errors.Is(err, sink.ErrNoKey):
			return fmt.Errorf("there is no key %q: intake key list shows them", c.ID)
		case errors.Is(err, sink.ErrKeySigns):
			return fmt.Errorf("%s signs the access tokens: without it those in use are refused, and partners get no new ones "+
				"for up to 5 s; if it has leaked, drop it with --force, else use intake key rotate", c.ID)
		case err != nil:
			return err
		}
		said := map[string]any{"kid": c.ID, "dropped": true}
		if next != nil {
			said["next"], said["next_signs_from"] = next.ID, next.SignsFrom.UTC()
		}
		if all.Key.JSON {
			return json.NewEncoder(out).Encode(said)
		}
		fmt.Fprintf(out, "%s is dropped: its tokens are refused within 5 s\n", c.ID)
		if next != nil {
			fmt.Fprintf(out, "%s signs from %s UTC\n", next.ID, next.SignsFrom.UTC().Format(time.DateTime))
		}
		return nil
	})
}
