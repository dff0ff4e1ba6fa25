package sink

// TidyStatusAt is TidyStatus at another time.
var TidyStatusAt = (*Store).tidyStatus
