package front

import (
	"net/http"

	"intake/cmd/intake/internal/auth"
)

// create is POST /api/v1/clients.
func (f *Front) create(w http.ResponseWriter, r *http.Request) error {
	streams := isStream(r)
	if streams {
		f.answerEarly(w)
	}
	who, err := f.opts.Auth.Authenticate(r, auth.ScopeWrite)
	if err != nil {
		return err
	}
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	if streams {
		return f.stream(w, r, who, key)
	}
	q := f.newRequest(who.Partner, readPreferences(r.Header))
	defer q.memory.release()
	q.key = key
	if err := f.admit(&q.prefer); err != nil {
		return unreadError{err}
	}
	body, slot, err := f.readLimited(w, r, &q.Partner, q.memory)
	if err != nil {
		return unreadError{err}
	}
	defer slot.Leave()
	q.body = body
	if err := q.process(r.Context()); err != nil {
		putBody(q.body)
		return err
	}
	return q.answer(w)
}
