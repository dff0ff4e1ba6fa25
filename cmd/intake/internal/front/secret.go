package front

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// NewSecret makes a client secret of 256 random bits, and what is kept of it.
func NewSecret() (secret string, hash [32]byte) {
	var random [32]byte
	rand.Read(random[:]) // never fails
	secret = base64.RawURLEncoding.EncodeToString(random[:])
	return secret, sha256.Sum256([]byte(secret))
}
