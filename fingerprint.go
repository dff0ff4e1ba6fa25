package intake

// A Fingerprint identifies an item's data. Two items have the same fingerprint if, and for
// all practical purposes only if, their data is the same as the contract defines it. It is
// the first 128 bits of a SHA-256; package decode describes what is hashed.
type Fingerprint [16]byte
