package sink

// TidyStatusAt is TidyStatus on another day, by a clock that is wrong.
var TidyStatusAt = (*Store).tidyStatus

// MakePartition makes the partition of a day.
var MakePartition = (*Store).makePartition
