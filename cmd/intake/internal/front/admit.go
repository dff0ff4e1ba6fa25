package front

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"intake/cmd/intake/internal/problem"
	"intake/worker/queue"
)

// admit refuses a batch while more is queued than can be saved in good time. It is called
// before the batch is read, so that refusing takes little from saving.
func (f *Front) admit(prefer *preferences) error {
	if prefer.validate { // it won't be queued
		return nil
	}
	after, overloaded := f.opts.Queue.Overloaded(prefer.lane())
	if !overloaded {
		return nil
	}
	return problem.New(problem.Overloaded,
		"more is queued than can be saved in good time; nothing of this request was saved or queued").After(comeBack(after))
}

// admitLine makes a line of a stream wait until it is admitted, which slows the stream
// down, and refuses it only then.
func (f *Front) admitLine(ctx context.Context, prefer *preferences) (err error) {
	waitRoom(ctx, func() bool {
		err = f.admit(prefer)
		return err == nil
	})
	return err
}

// An unreadError refuses a request whose body was not read to its end.
type unreadError struct{ error }

func (e unreadError) Unwrap() error { return e.error }

// refuseUnread refuses a request whose body was not read to its end. The server would read
// on, to use the connection again: for a large body that takes more than another connection
// does. So the connection is closed, a while after the answer: a client that is still
// sending might not see the answer otherwise. refuseUnread reports false, and does nothing,
// if the body is small or the protocol can do better.
func (f *Front) refuseUnread(w http.ResponseWriter, r *http.Request, p *problem.Problem) bool {
	const large = 32 << 10
	if r.ProtoMajor > 1 || 0 <= r.ContentLength && r.ContentLength <= large {
		return false
	}
	p.With("Connection", "close").Write(w)
	controller := http.NewResponseController(w)
	if controller.Flush() != nil {
		return true
	}
	if conn, _, err := controller.Hijack(); err == nil {
		time.AfterFunc(f.unreadLinger, func() { closeRead(conn) })
	}
	return true
}

var discarded = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// closeRead closes a connection after reading what has come over it. Without that, the
// kernel resets the connection, and the client might not see the answer.
func closeRead(conn net.Conn) {
	defer conn.Close()
	const most = 1 << 20
	buffer := discarded.Get().(*[64 << 10]byte)
	defer discarded.Put(buffer)
	_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	for read := 0; read < most; {
		n, err := conn.Read(buffer[:])
		if err != nil {
			return
		}
		read += n
	}
}

// full returns the problem that there is no memory for a request, with the time by which
// what is queued should be saved.
func (f *Front) full() error {
	return problem.New(problem.NoMemory,
		"the server is at its memory limit for requests; nothing of this one was saved or queued").
		After(comeBack(f.opts.Queue.Backlog()))
}

// comeBack turns an estimate into a Retry-After. It is spread, so that not all clients come
// back at the same time.
func comeBack(estimate time.Duration) time.Duration {
	const least, most = time.Second, time.Minute
	estimate += rand.N(estimate/4 + 1)
	return min(max(estimate, least), most)
}

// lane returns where a batch is queued for which a client waits as long as it prefers.
func (p *preferences) lane() queue.Lane {
	if p.wait == 0 {
		return queue.Later
	}
	return queue.Waiting
}
