package worker

import "slices"

// Turns are values that wait, of several owners who take turns.
type turns[K comparable, V any] struct {
	order  []K // the owners of those that wait, the next one first
	values map[K][]V
}

func (t *turns[K, V]) isEmpty() bool { return len(t.order) == 0 }

// add adds a value behind those of the same owner.
func (t *turns[K, V]) add(owner K, value V) {
	if t.values == nil {
		t.values = make(map[K][]V)
	}
	if len(t.values[owner]) == 0 {
		t.order = append(t.order, owner)
	}
	t.values[owner] = append(t.values[owner], value)
}

// next gives what waits of the owner whose turn it is.
func (t *turns[K, V]) next() []V { return t.values[t.order[0]] }

// take takes the first n of the values that next gives, and ends the turn.
func (t *turns[K, V]) take(n int) []V {
	owner := t.order[0]
	values := t.values[owner]
	t.order = t.order[1:]
	if n == len(values) {
		delete(t.values, owner)
	} else {
		t.values[owner] = values[n:]
		t.order = append(t.order, owner)
	}
	return values[:n:n]
}

// remove takes out the value of an owner that is told by is.
func (t *turns[K, V]) remove(owner K, is func(V) bool) bool {
	values := t.values[owner]
	i := slices.IndexFunc(values, is)
	if i < 0 {
		return false
	}
	if len(values) > 1 {
		t.values[owner] = append(values[:i:i], values[i+1:]...)
		return true
	}
	delete(t.values, owner)
	t.order = slices.DeleteFunc(slices.Clone(t.order), func(k K) bool { return k == owner })
	return true
}

// all gives all values, and forgets them.
func (t *turns[K, V]) all() (values []V) {
	for _, owner := range t.order {
		values = append(values, t.values[owner]...)
	}
	*t = turns[K, V]{}
	return values
}
