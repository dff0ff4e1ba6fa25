package sink

import "time"

// SetSilence sets the limit on the time of a save.
func SetSilence(s *Store, d time.Duration) { s.silence = d }

// TidyStatusAt is TidyStatus with a clock that is wrong.
var TidyStatusAt = (*Store).tidyStatus

// MakePartition makes the partition of a day.
var MakePartition = (*Store).makePartition
