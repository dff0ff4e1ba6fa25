package problem

import (
	"maps"
	"net/http"

	"intake/cmd/intake/internal/limit"
	"intake/internal/decode"
)

// A Code says why a request is refused, for programs. The codes are part of the
// contract: openapi.yaml lists them, and a released code is never removed or renamed.
type Code string

const (
	NotUTF8           Code = decode.NotUTF8
	NotJSON           Code = decode.NotJSON
	TooDeep           Code = decode.TooDeep
	NotAnArray        Code = decode.NotAnArray
	NoItems           Code = decode.NoItems
	BodyIncomplete    Code = "body_incomplete"
	BadCompression    Code = "bad_compression"
	BadContentType    Code = "bad_content_type"
	BadIdempotencyKey Code = "bad_idempotency_key"
	KeyOnStream       Code = "idempotency_key_on_stream"

	TokenMissing     Code = "token_missing"
	BadAuthorization Code = "bad_authorization"
	TokenInvalid     Code = "token_invalid"
	TokenExpired     Code = "token_expired"
	PartnerRefused   Code = "partner_refused"
	ScopeMissing     Code = "scope_missing"

	NoPath   Code = "no_such_path"
	NoBatch  Code = "no_such_batch"
	NoClient Code = "no_such_client"
	Method   Code = "method_not_allowed"

	BodyTooSlow   Code = "body_too_slow"
	StreamTooSlow Code = "stream_too_slow"
	StreamTooOld  Code = "stream_too_old"

	KeyRunning Code = "idempotency_key_running"
	KeyReused  Code = "idempotency_key_reused"

	BodyTooLarge Code = "body_too_large"
	TooManyItems Code = "too_many_items"
	ItemTooLarge Code = "item_too_large"
	ContentType  Code = "unsupported_content_type"
	Encoding     Code = "unsupported_encoding"

	ItemsPerSecond   Code = limit.ItemsPerSecond
	RequestsInFlight Code = limit.RequestsInFlight
	BytesInFlight    Code = limit.BytesInFlight

	Fault      Code = "server_fault"
	AnswerLost Code = "answer_lost"
	BatchLost  Code = "batch_lost"

	Starting          Code = "starting"
	ShuttingDown      Code = "shutting_down"
	Overloaded        Code = "overloaded"
	NoMemory          Code = "no_memory"
	QueueFull         Code = "queue_full"
	QueueUnavailable  Code = "queue_unavailable"
	StoreUnavailable  Code = "store_unavailable"
	IssuerUnavailable Code = "issuer_unavailable"
)

// statuses maps every code to the HTTP status it is sent with.
var statuses = map[Code]int{
	NotUTF8:           http.StatusBadRequest,
	NotJSON:           http.StatusBadRequest,
	TooDeep:           http.StatusBadRequest,
	NotAnArray:        http.StatusBadRequest,
	NoItems:           http.StatusBadRequest,
	BodyIncomplete:    http.StatusBadRequest,
	BadCompression:    http.StatusBadRequest,
	BadContentType:    http.StatusBadRequest,
	BadIdempotencyKey: http.StatusBadRequest,
	KeyOnStream:       http.StatusBadRequest,
	TokenMissing:      http.StatusUnauthorized,
	BadAuthorization:  http.StatusUnauthorized,
	TokenInvalid:      http.StatusUnauthorized,
	TokenExpired:      http.StatusUnauthorized,
	PartnerRefused:    http.StatusUnauthorized,
	ScopeMissing:      http.StatusForbidden,
	NoPath:            http.StatusNotFound,
	NoBatch:           http.StatusNotFound,
	NoClient:          http.StatusNotFound,
	Method:            http.StatusMethodNotAllowed,
	BodyTooSlow:       http.StatusRequestTimeout,
	StreamTooSlow:     http.StatusRequestTimeout,
	StreamTooOld:      http.StatusRequestTimeout,
	KeyRunning:        http.StatusConflict,
	KeyReused:         http.StatusUnprocessableEntity,
	BodyTooLarge:      http.StatusRequestEntityTooLarge,
	TooManyItems:      http.StatusRequestEntityTooLarge,
	ItemTooLarge:      http.StatusRequestEntityTooLarge,
	ContentType:       http.StatusUnsupportedMediaType,
	Encoding:          http.StatusUnsupportedMediaType,
	ItemsPerSecond:    http.StatusTooManyRequests,
	RequestsInFlight:  http.StatusTooManyRequests,
	BytesInFlight:     http.StatusTooManyRequests,
	Fault:             http.StatusInternalServerError,
	AnswerLost:        http.StatusInternalServerError,
	BatchLost:         http.StatusInternalServerError,
	Starting:          http.StatusServiceUnavailable,
	ShuttingDown:      http.StatusServiceUnavailable,
	Overloaded:        http.StatusServiceUnavailable,
	NoMemory:          http.StatusServiceUnavailable,
	QueueFull:         http.StatusServiceUnavailable,
	QueueUnavailable:  http.StatusServiceUnavailable,
	StoreUnavailable:  http.StatusServiceUnavailable,
	IssuerUnavailable: http.StatusServiceUnavailable,
}

// Status returns the HTTP status of a code, 0 if there is no such code.
func (c Code) Status() int { return statuses[c] }

// Statuses returns every code with its status.
func Statuses() map[Code]int { return maps.Clone(statuses) }
