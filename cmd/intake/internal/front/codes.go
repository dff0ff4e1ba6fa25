package front

import (
	"intake/internal/decode"
	"net/http"

	"intake/cmd/intake/internal/limit"
)

// A problemCode says why a request is refused, for programs. The codes are part of
// the contract: openapi.yaml lists them, and what is released stays.
type problemCode string

const (
	codeNotUTF8           problemCode = decode.NotUTF8
	codeNotJSON           problemCode = decode.NotJSON
	codeTooDeep           problemCode = decode.TooDeep
	codeNotAnArray        problemCode = decode.NotAnArray
	codeNoItems           problemCode = decode.NoItems
	codeBodyIncomplete    problemCode = "body_incomplete"
	codeBadCompression    problemCode = "bad_compression"
	codeBadContentType    problemCode = "bad_content_type"
	codeBadIdempotencyKey problemCode = "bad_idempotency_key"
	codeKeyOnStream       problemCode = "idempotency_key_on_stream"

	codeTokenMissing     problemCode = "token_missing"
	codeBadAuthorization problemCode = "bad_authorization"
	codeTokenInvalid     problemCode = "token_invalid"
	codeTokenExpired     problemCode = "token_expired"
	codePartnerRefused   problemCode = "partner_refused"
	codeScopeMissing     problemCode = "scope_missing"

	codeNoPath   problemCode = "no_such_path"
	codeNoBatch  problemCode = "no_such_batch"
	codeNoClient problemCode = "no_such_client"
	codeMethod   problemCode = "method_not_allowed"

	codeBodyTooSlow   problemCode = "body_too_slow"
	codeStreamTooSlow problemCode = "stream_too_slow"
	codeStreamTooOld  problemCode = "stream_too_old"

	codeKeyRunning problemCode = "idempotency_key_running"
	codeKeyReused  problemCode = "idempotency_key_reused"

	codeBodyTooLarge problemCode = "body_too_large"
	codeTooManyItems problemCode = "too_many_items"
	codeItemTooLarge problemCode = "item_too_large"
	codeContentType  problemCode = "unsupported_content_type"
	codeEncoding     problemCode = "unsupported_encoding"

	codeItemsPerSecond   problemCode = limit.ItemsPerSecond
	codeRequestsInFlight problemCode = limit.RequestsInFlight
	codeBytesInFlight    problemCode = limit.BytesInFlight

	codeFault      problemCode = "server_fault"
	codeAnswerLost problemCode = "answer_lost"
	codeBatchLost  problemCode = "batch_lost"

	codeStarting          problemCode = "starting"
	codeShuttingDown      problemCode = "shutting_down"
	codeOverloaded        problemCode = "overloaded"
	codeNoMemory          problemCode = "no_memory"
	codeQueueFull         problemCode = "queue_full"
	codeQueueUnavailable  problemCode = "queue_unavailable"
	codeStoreUnavailable  problemCode = "store_unavailable"
	codeIssuerUnavailable problemCode = "issuer_unavailable"
)

// problemStatuses has every code, and the status that it goes with.
var problemStatuses = map[problemCode]int{
	codeNotUTF8:           http.StatusBadRequest,
	codeNotJSON:           http.StatusBadRequest,
	codeTooDeep:           http.StatusBadRequest,
	codeNotAnArray:        http.StatusBadRequest,
	codeNoItems:           http.StatusBadRequest,
	codeBodyIncomplete:    http.StatusBadRequest,
	codeBadCompression:    http.StatusBadRequest,
	codeBadContentType:    http.StatusBadRequest,
	codeBadIdempotencyKey: http.StatusBadRequest,
	codeKeyOnStream:       http.StatusBadRequest,
	codeTokenMissing:      http.StatusUnauthorized,
	codeBadAuthorization:  http.StatusUnauthorized,
	codeTokenInvalid:      http.StatusUnauthorized,
	codeTokenExpired:      http.StatusUnauthorized,
	codePartnerRefused:    http.StatusUnauthorized,
	codeScopeMissing:      http.StatusForbidden,
	codeNoPath:            http.StatusNotFound,
	codeNoBatch:           http.StatusNotFound,
	codeNoClient:          http.StatusNotFound,
	codeMethod:            http.StatusMethodNotAllowed,
	codeBodyTooSlow:       http.StatusRequestTimeout,
	codeStreamTooSlow:     http.StatusRequestTimeout,
	codeStreamTooOld:      http.StatusRequestTimeout,
	codeKeyRunning:        http.StatusConflict,
	codeKeyReused:         http.StatusUnprocessableEntity,
	codeBodyTooLarge:      http.StatusRequestEntityTooLarge,
	codeTooManyItems:      http.StatusRequestEntityTooLarge,
	codeItemTooLarge:      http.StatusRequestEntityTooLarge,
	codeContentType:       http.StatusUnsupportedMediaType,
	codeEncoding:          http.StatusUnsupportedMediaType,
	codeItemsPerSecond:    http.StatusTooManyRequests,
	codeRequestsInFlight:  http.StatusTooManyRequests,
	codeBytesInFlight:     http.StatusTooManyRequests,
	codeFault:             http.StatusInternalServerError,
	codeAnswerLost:        http.StatusInternalServerError,
	codeBatchLost:         http.StatusInternalServerError,
	codeStarting:          http.StatusServiceUnavailable,
	codeShuttingDown:      http.StatusServiceUnavailable,
	codeOverloaded:        http.StatusServiceUnavailable,
	codeNoMemory:          http.StatusServiceUnavailable,
	codeQueueFull:         http.StatusServiceUnavailable,
	codeQueueUnavailable:  http.StatusServiceUnavailable,
	codeStoreUnavailable:  http.StatusServiceUnavailable,
	codeIssuerUnavailable: http.StatusServiceUnavailable,
}

func (c problemCode) status() int { return problemStatuses[c] }
