package limit

import "context"

// Renew renews a slot, as Run does from time to time.
func (s *Slot) Renew(ctx context.Context) { s.renew(ctx) }
