package queue

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"intake/internal/local/localtest"
)

// A front that refuses all batches goes on looking at the queue, long after the last
// batch was submitted, and takes batches again once the queue is empty.
func TestQueue_OverloadedEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, Options{MaxBacklog: 2 * time.Second})
	consumers, err := SetUp(t.Context(), q.js, StreamOptions{MaxBytes: 64 << 20}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	const batches = 400 // queued while the data store is down
	for n := range batches {
		submit(t, q, newBatch(fmt.Sprint(n))).Release()
	}
	process := func(n int) {
		t.Helper()
		fetched, err := consumers[0].Fetch(n, jetstream.FetchMaxWait(10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for msg := range fetched.Messages() {
			if err := msg.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
			n--
		}
		if n != 0 || fetched.Error() != nil {
			t.Fatalf("%d messages are missing: %v", n, fetched.Error())
		}
	}
	seen := func() time.Time {
		q.backlog.mu.Lock()
		defer q.backlog.mu.Unlock()
		return q.backlog.at
	}
	processed := 0
	localtest.Eventually(t, "the front refuses batches", func() bool {
		before := seen()
		process(5)
		processed += 5
		localtest.Eventually(t, "the front looks again", func() bool { return seen().After(before) })
		_, overloaded := q.Overloaded(Waiting)
		return overloaded
	})
	q.asked.Store(time.Now().Add(-time.Hour).UnixNano())
	process(batches - processed)
	localtest.Eventually(t, "the front takes batches again", func() bool {
		_, overloaded := q.Overloaded(Waiting)
		return !overloaded
	})
}

// Messages that come back again and again are no backlog, and neither is what a
// consumer that only reads the log has not read yet.
func TestQueue_WhatIsNoBacklog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, Options{})
	consumers, err := SetUp(t.Context(), q.js, StreamOptions{MaxBytes: 64 << 20}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	const hung, others = 20, 3
	for n := range hung {
		submit(t, q, newBatch(fmt.Sprint(n))).Release()
	}
	for range 2 {
		fetched, err := consumers[0].Fetch(hung, jetstream.FetchMaxWait(10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for msg := range fetched.Messages() {
			if err := msg.Nak(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := range others {
		submit(t, q, newBatch(fmt.Sprint("other", n))).Release()
	}
	reader := jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy}
	if _, err := r.stream(t).CreateConsumer(t.Context(), reader); err != nil {
		t.Fatal(err)
	}
	q.updateBacklog(t.Context(), r.stream(t))
	q.backlog.mu.Lock()
	defer q.backlog.mu.Unlock()
	if q.backlog.all != others || q.backlog.waiting != others {
		t.Errorf("%v messages in all lanes, %v in the waiting one, count as a backlog; want %d",
			q.backlog.all, q.backlog.waiting, others)
	}
}
