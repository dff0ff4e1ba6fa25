package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"intake"
)

// Errors of methods that take a partner's name.
var (
	ErrPartnerExists = errors.New("a partner with this name exists already")
	ErrNoPartner     = errors.New("no partner has this name")
)

// A PartnerRecord is a partner as the data store knows it.
type PartnerRecord struct {
	intake.Partner
	// SecretHash is the SHA-256 of the client secret, which is kept nowhere.
	SecretHash [32]byte
	// OldSecretHashes are those of earlier secrets that still get tokens.
	OldSecretHashes [][32]byte
	// OldSecretUntil is when the last of them expires.
	OldSecretUntil time.Time
	CreatedAt      time.Time
}

// AddPartner adds a partner and returns it with its ID. It returns [ErrPartnerExists] if
// the name is taken.
func (s *Store) AddPartner(ctx context.Context, partner intake.Partner, secretHash [32]byte) (intake.Partner, error) {
	const query = `
		insert into partners (name, currency, entity_types, secret_hash, disabled)
		values ($1, $2, $3, $4, $5)
		on conflict (name) do nothing
		returning id`
	types := partner.EntityTypes
	if types == nil {
		types = []string{}
	}
	err := s.pool.QueryRow(ctx, query, partner.Name, partner.Currency, types, secretHash[:],
		partner.Disabled).Scan(&partner.ID)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return intake.Partner{}, ErrPartnerExists
	case err != nil:
		return intake.Partner{}, fmt.Errorf("add partner %s: %w", partner.Name, err)
	}
	return partner, nil
}

// Partners returns all partners, ordered by name.
func (s *Store) Partners(ctx context.Context) ([]PartnerRecord, error) {
	const query = `
		select id, name, currency, entity_types, secret_hash, old.hashes, old.ends_at, disabled, created_at,
		       items_per_second, burst, max_requests, max_bytes
		  from partners
		  left join (select partner_id, array_agg(secret_hash) as hashes, max(ends_at) as ends_at
		               from old_secrets
		              where ends_at > clock_timestamp()
		              group by partner_id) old on old.partner_id = id
		 order by name collate "C"`
	rows, err := s.pool.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read the partners: %w", err)
	}
	partners, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p PartnerRecord, err error) {
		var hash []byte
		var oldHashes [][]byte
		var oldUntil *time.Time
		if err := row.Scan(&p.ID, &p.Name, &p.Currency, &p.EntityTypes, &hash, &oldHashes, &oldUntil, &p.Disabled,
			&p.CreatedAt,
			&p.Limits.ItemsPerSecond, &p.Limits.Burst, &p.Limits.Requests, &p.Limits.Bytes); err != nil {
			return p, err
		}
		if copy(p.SecretHash[:], hash) != len(p.SecretHash) {
			return p, fmt.Errorf("partner %s: the secret's hash is no SHA-256", p.Name)
		}
		for _, old := range oldHashes {
			p.OldSecretHashes = append(p.OldSecretHashes, [32]byte(old))
		}
		if oldUntil != nil {
			p.OldSecretUntil = *oldUntil
		}
		return p, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the partners: %w", err)
	}
	return partners, nil
}

// partnersKey is where a connection keeps the names of the partners, by ID.
const partnersKey = "intake partners"

// checkPartners returns an [*intake.UnknownPartnerError] if Postgres has no partner with
// a chunk's ID and name. A Postgres that was restored from a backup lacks the partners
// that were added since, and assigns their IDs to others. The names are cached with the
// connection, as another one may lead to another server, and read again if one is
// missing.
func checkPartners(ctx context.Context, conn *pgx.Conn, chunks []*intake.Chunk) error {
	data := conn.PgConn().CustomData()
	names, _ := data[partnersKey].(map[int32]string)
	if strangerAmong(chunks, names) == nil {
		return nil
	}
	names, err := readPartnerNames(ctx, conn)
	if err != nil {
		return fmt.Errorf("read the names of the partners: %w", err)
	}
	data[partnersKey] = names
	if stranger := strangerAmong(chunks, names); stranger != nil {
		return &intake.UnknownPartnerError{ID: stranger.Partner, Name: stranger.PartnerName}
	}
	return nil
}

// strangerAmong returns a chunk whose partner isn't in names, or nil.
func strangerAmong(chunks []*intake.Chunk, names map[int32]string) *intake.Chunk {
	for _, chunk := range chunks {
		if chunk.PartnerName != "" && names[chunk.Partner] != chunk.PartnerName {
			return chunk
		}
	}
	return nil
}

func readPartnerNames(ctx context.Context, conn *pgx.Conn) (map[int32]string, error) {
	rows, err := conn.Query(ctx, "select id, name from partners")
	if err != nil {
		return nil, err
	}
	names := make(map[int32]string)
	var (
		id   int32
		name string
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error {
		names[id] = name
		return nil
	})
	return names, err
}

// RotateSecret replaces a partner's client secret with one that has this SHA-256. The old
// secret, and any earlier one, gets tokens for overlap at most. RotateSecret returns when
// that ends, or [ErrNoPartner].
func (s *Store) RotateSecret(ctx context.Context, name string, hash [32]byte,
	overlap time.Duration) (oldUntil time.Time, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		const replace = `
			update partners p
			   set secret_hash = $2
			  from (select id, secret_hash from partners where name = $1 for update) old
			 where p.id = old.id
			returning p.id, old.secret_hash, clock_timestamp() + $3::interval`
		var id int32
		var old []byte
		if err := tx.QueryRow(ctx, replace, name, hash[:], overlap).Scan(&id, &old, &oldUntil); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "update old_secrets set ends_at = least(ends_at, $2) where partner_id = $1", id,
			oldUntil); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "insert into old_secrets (partner_id, secret_hash, ends_at) values ($1, $2, $3)", id,
			old, oldUntil); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "delete from old_secrets where partner_id = $1 and ends_at <= clock_timestamp()", id)
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return time.Time{}, ErrNoPartner
	case err != nil:
		return time.Time{}, fmt.Errorf("rotate the secret of partner %s: %w", name, err)
	}
	return oldUntil, nil
}

// SetDisabled disables or enables a partner. It may return [ErrNoPartner].
func (s *Store) SetDisabled(ctx context.Context, name string, disabled bool) error {
	return s.setPartner(ctx, "update partners set disabled = $2 where name = $1", name, disabled)
}

// SetLimits changes what a partner may send. It may return [ErrNoPartner].
func (s *Store) SetLimits(ctx context.Context, name string, limits intake.Limits) error {
	const update = "update partners set items_per_second = $2, burst = $3, max_requests = $4, max_bytes = $5 where name = $1"
	return s.setPartner(ctx, update, name, limits.ItemsPerSecond, limits.Burst, limits.Requests, limits.Bytes)
}

func (s *Store) setPartner(ctx context.Context, update, name string, values ...any) error {
	result, err := s.pool.Exec(ctx, update, append([]any{name}, values...)...)
	switch {
	case err != nil:
		return fmt.Errorf("change partner %s: %w", name, err)
	case result.RowsAffected() == 0:
		return ErrNoPartner
	}
	return nil
}
