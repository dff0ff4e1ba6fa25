package intake

// A Fingerprint stands for an item's data: two items have the same one if their
// data is the same as the contract defines it, and else with certainty for all
// practical purposes (128 bits of SHA-256).
// Package decode describes what is hashed.
type Fingerprint [16]byte
