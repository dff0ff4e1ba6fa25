package sink

import "time"

// SetSilence sets how long a save may take.
func SetSilence(s *Store, d time.Duration) { s.silence = d }

// TidyStatusAt is TidyStatus on another day, by a clock that is wrong.
var TidyStatusAt = (*Store).tidyStatus

// MakePartition makes the partition of a day.
var MakePartition = (*Store).makePartition
