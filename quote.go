package intake

import "strconv"

// maxIDChars is the most characters that a partner_client_id may have.
const maxIDChars = 128

// quote puts a partner's text into a message: in double quotes, with control
// characters and stray bytes escaped, and cut after so many characters.
func quote(s string, maxChars int) string {
	n := 0
	for i := range s {
		if n == maxChars {
			return strconv.Quote(s[:i]) + "…"
		}
		n++
	}
	return strconv.Quote(s)
}
