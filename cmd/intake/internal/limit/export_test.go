package limit

import "context"

// Renew has a pass go on, as Run does from time to time.
func (p *Pass) Renew(ctx context.Context) { p.renew(ctx) }
