package front

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of the wait for a commit.
const (
	defaultWait = 10 * time.Second
	maxWait     = 30 * time.Second
)

// preferences are what a client has asked for with Prefer (RFC 7240) and gets.
type preferences struct {
	wait     time.Duration
	async    bool // respond-async: don't wait, or only as long as wait says
	minimal  bool // return=minimal: answer without data
	validate bool // handling=validate: a dry run
	applied  []string
}

// readPreferences reads all Prefer headers. Of a preference that is given more than once,
// the first one counts (§2). Preferences that are unknown or invalid are ignored.
func readPreferences(header http.Header) preferences {
	p := preferences{wait: defaultWait}
	seen := make(map[string]bool)
	waits := false
	for _, preference := range splitQuoted(strings.Join(header.Values("Prefer"), ","), ',') {
		// Behind a semicolon are parameters; none is known.
		name, value, _ := strings.Cut(splitQuoted(preference, ';')[0], "=")
		name = strings.ToLower(strings.TrimSpace(name))
		value = unquote(strings.TrimSpace(value))
		if seen[name] {
			continue
		}
		seen[name] = true
		switch name {
		case "wait":
			seconds, err := strconv.ParseUint(value, 10, 31)
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				continue
			}
			waits = true
			p.wait = min(time.Duration(seconds)*time.Second, maxWait)
			p.applied = append(p.applied, "wait="+strconv.Itoa(int(p.wait/time.Second)))
		case "respond-async":
			p.async = true
			p.applied = append(p.applied, "respond-async")
		case "handling":
			if strings.EqualFold(value, "validate") {
				p.validate = true
				p.applied = append(p.applied, "handling=validate")
			}
		case "return":
			if strings.EqualFold(value, "minimal") {
				p.minimal = true
				p.applied = append(p.applied, "return=minimal")
			}
		}
	}
	if p.async && !waits {
		p.wait = 0
	}
	if p.validate { // a dry run has no commit to wait for
		p.applied = slices.DeleteFunc(p.applied, func(s string) bool {
			return s == "respond-async" || strings.HasPrefix(s, "wait=")
		})
	}
	return p
}

// appliedHeader returns the value of Preference-Applied, "" if no preference was honoured.
func (p *preferences) appliedHeader() string { return strings.Join(p.applied, ", ") }

// splitQuoted splits at separators outside of quoted strings.
func splitQuoted(s string, separator byte) (parts []string) {
	quoted, begin := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == separator && !quoted:
			parts, begin = append(parts, s[begin:i]), i+1
		}
	}
	return append(parts, s[begin:])
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	return strings.ReplaceAll(s[1:len(s)-1], `\`, "")
}
