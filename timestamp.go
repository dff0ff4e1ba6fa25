package intake

import (
	"math"
	"time"
)

// A Timestamp is a moment in microseconds since the Unix epoch, UTC. Years 0001
// to 9999 fit.
type Timestamp int64

// NoTimestamp stands for a timestamp that was left out.
const NoTimestamp Timestamp = math.MinInt64

// String returns the timestamp in the contract's form: RFC 3339 in UTC with
// milliseconds, or with microseconds if there are any.
func (t Timestamp) String() string {
	if t == NoTimestamp {
		return ""
	}
	layout := "2006-01-02T15:04:05.000Z"
	if t%1000 != 0 {
		layout = "2006-01-02T15:04:05.000000Z"
	}
	return time.UnixMicro(int64(t)).UTC().Format(layout)
}
