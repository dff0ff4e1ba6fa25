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

// admit refuses a batch that comes while more is queued than can be saved in good
// time: before it is read, so that refusing takes little from saving.
func (f *Front) admit(prefer *preferences) *problem.Problem {
	if prefer.validate { // it won't be queued
		return nil
	}
	after, overloaded := f.opts.Queue.Overloaded(prefer.lane())
	if !overloaded {
		return nil
	}
	return &problem.Problem{
		Code: problem.Overloaded, RetryAfter: comeBack(after),
		Detail: "more is queued than can be saved in good time; nothing of this request was saved or queued",
	}
}

// admitLine has a line of a stream wait until it is admitted, which slows the
// stream down, and only then refuses it.
func (f *Front) admitLine(ctx context.Context, prefer *preferences) *problem.Problem {
	var refusal *problem.Problem
	waitRoom(ctx, func() bool {
		refusal = f.admit(prefer)
		return refusal == nil
	})
	return refusal
}

// refuseUnread refuses a request whose body was not read to its end. The server
// would read on, so as to use the connection again: of a large body that takes more
// than another connection does. So that is closed, a while after the answer, which a
// client that is still sending might not get to see otherwise.
func (f *Front) refuseUnread(w http.ResponseWriter, r *http.Request, refusal *problem.Problem) {
	const large = 32 << 10
	if r.ProtoMajor > 1 || 0 <= r.ContentLength && r.ContentLength <= large {
		refusal.Write(w)
		return
	}
	w.Header().Set("Connection", "close")
	refusal.Write(w)
	controller := http.NewResponseController(w)
	if controller.Flush() != nil {
		return
	}
	if conn, _, err := controller.Hijack(); err == nil {
		time.AfterFunc(f.unreadLinger, func() { closeRead(conn) })
	}
}

var discarded = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// closeRead closes a connection. What has come over it is taken first, or the client
// would find it reset and might not look at the answer.
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

// full is errFull, with the time by which what is queued should be saved.
func (f *Front) full() *problem.Problem {
	return errFull.After(comeBack(f.opts.Queue.Backlog()))
}

// comeBack makes a Retry-After of an estimate. Not all come back at once.
func comeBack(estimate time.Duration) time.Duration {
	const least, most = time.Second, time.Minute
	estimate += rand.N(estimate/4 + 1)
	return min(max(estimate, least), most)
}

// lane is where a batch is queued for which a client waits so long.
func (p *preferences) lane() queue.Lane {
	if p.wait == 0 {
		return queue.Later
	}
	return queue.Waiting
}
