// Package queue carries batches from the fronts to the workers, in a NATS JetStream stream, and the
// outcomes back.
//
// A front submits a batch to its [Queue] (queue.go), which cuts it into chunks (chunk.go), encodes
// them (message.go, clients.go) and hands them to its publisher (publish_queue.go, publish.go). The
// publisher stores what has gathered in the stream (stream.go) in one commit, and only then does Submit
// return a [Ticket] (ticket.go). [Connect] is in connect.go. Workers send outcomes straight to the
// front that queued the batch (outcome.go, outcomes.go); what gets lost on that way, the front
// reads from its [Ledger]. A status check reads a batch back from the log or the dead letters
// (stored.go). Package worker, which uses this one, empties the queue.
//
// Two things are watched all the time: whether NATS keeps what it says that it has stored (safety.go,
// storing.go), and how long it will take to save what is queued (backlog.go).
//
// # Fairness
//
// A batch whose client waits is queued in the waiting lane, any other in the later lane of its
// partner (lane.go):
//
//   - Waiting first. Workers save the waiting lane ahead of the later ones, in the order of the
//     stream. While both have messages, every fifth gathering is of the later lanes, so that they
//     never stand still.
//   - In turn. A gathering of the later lanes takes one message of each lane in turn, so that a
//     partner who has queued a lot does not hold up the others. It is smaller than one of the
//     waiting lane, since waiting batches that arrive meanwhile are held up by it.
//   - Together. While a small gathering is being saved, no other small one is: what has come shares
//     the next transaction, after 50 ms at the latest. A lone batch waits for nothing, and neither
//     does what comes while a large gathering is being saved.
//   - In turn at the front as well. The publisher takes what waits of one partner and lane, then of
//     the next.
//   - Room. The last quarter of the log accepts only batches whose clients wait. What is processed
//     stays in the log for a while, and takes up half of it at most.
//   - Overload. A front refuses batches of a lane when it would take longer than MaxBacklog to save
//     what is ahead of them ([Queue.Overloaded]).
//
// # Message format
//
// A message holds one chunk of a large batch, or several small batches of one partner and lane. Its
// subject is
//
//	intake.batch.<lane>.<partner>.<base>.<number>
//
// where base is a UUID of version 7 and number that of the chunk. The ID of the batch at index n of
// a message is base with n in its last two bytes, so that any batch's ID leads to its message.
//
// The first byte is the version, 1. Then come fields in protobuf's wire format: the base, the subject
// for outcomes, and for each batch its index, its Idempotency-Key if it has one, and its chunks. A
// chunk is fields in turn: its place in the batch, the partner, and compressed with S2 the verdicts
// that are final already, the items as they were sent, and the items to be saved. Readers skip fields
// that they do not know, and leave a newer version to newer workers ([ErrNewer]). Messages of earlier
// versions are kept in testdata/recorded, and tests read them.
package queue
