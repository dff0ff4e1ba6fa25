package intake

import "golang.org/x/text/currency"

// maxEntityTypeChars is the most characters that an entity_type may have.
const maxEntityTypeChars = 64

// ValidPartnerName reports whether name is valid for a partner: 1 to 63 lower
// case ASCII letters, digits and hyphens, not starting with a hyphen. Such a
// name needs no escaping in a URL, a file name or a queue's subject.
func ValidPartnerName(name string) bool {
	if name == "" || len(name) > 63 || name[0] == '-' {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if !(isDigit(c) || 'a' <= c && c <= 'z' || c == '-') {
			return false
		}
	}
	return true
}

// ValidCurrency reports whether code is an ISO 4217 currency code in its one
// spelling, three capital letters. It accepts codes that are no longer in use.
func ValidCurrency(code string) bool {
	for i := range len(code) {
		if code[i] < 'A' || 'Z' < code[i] { // ParseISO takes lower case as well
			return false
		}
	}
	_, err := currency.ParseISO(code)
	return err == nil
}

// ValidEntityType reports whether an entity_type is well formed: 1 to 64 ASCII
// letters and digits, starting with a letter.
func ValidEntityType(entityType string) bool {
	if entityType == "" || len(entityType) > maxEntityTypeChars || isDigit(entityType[0]) {
		return false
	}
	for i := range len(entityType) {
		c := entityType[i]
		if !(isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z') {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
