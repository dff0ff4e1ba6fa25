package limit

import "context"

// Renew has a slot go on, as Run does from time to time.
func (s *Slot) Renew(ctx context.Context) { s.renew(ctx) }
