// Package worker empties the queue: it saves what fronts have queued, and acknowledges it.
//
// A [Worker] (worker.go) fetches messages from the lanes (fetch.go) into its backlog (backlog.go). Each
// of its savers takes a gathering from there, has the [Store] save it in one transaction (save.go), and
// only then sends the outcomes to the fronts, acknowledges the messages and has their keys marked as
// seen (settle.go). What is lost after the commit, such as an acknowledgement, costs nothing: the
// message is delivered again, and the store finds what it has saved of it.
//
// A message that cannot be saved does not hold up the others: it is handed back, then saved apart from
// others, and at last given up (suspects.go) and moved to the dead letters (dead.go). Operators list,
// queue again and drop those ([DeadLetters], letters.go). [Recover] saves from the log what a data store
// has lost since its last backup (recover.go). Workers also purge the log (janitor.go).
//
// The order in which batches are saved, and what a message looks like, are described in package
// intake/worker/queue.
package worker
