// Package eventlog keeps every event of every request of a run on disk, so that a figure can be computed again under a definition
// that is written later. It is binary, at most 16 bytes an event (11 for a usual token), written while the run goes on: a run that
// is killed keeps what it had written.
//
//	w, err := eventlog.Create("events.omni")
//	...
//	w.Add("conc=64", &sample) // when a request is over, from any goroutine
//	...
//	err = w.Close()
//	rows, err := eventlog.ReadFile("events.omni")
//
// # Layout, version 1
//
// Numbers of fixed length are little-endian. uvarint and varint are those of encoding/binary (base 128; varint is zigzag).
// A string is a uvarint length and its bytes. Times are nanoseconds.
//
//	log    = { header | record }, a header first
//	header = "OMNI" "EVLG" version:u32            12 bytes; logs can be concatenated
//	record = length:u32 crc:u32 payload           length: of payload, at most 256 MiB; crc: CRC-32C of payload
//
// The first byte of a payload says what it is: 1 a request, 2 the end that Close writes, followed by the number of requests since
// the header as uvarint. A log without its end belongs to a run that was killed.
//
//	request = 1
//	  flags:uvarint        1 was sent, 2 has a due time, 4 failed, 8 has others, 16 was abandoned
//	  row:string           the row of the result that it belongs to
//	  request id:string    leads to the proxy's flow ledger
//	  start:varint         since 1970, only if sent. Wall clock of the first use of the Writer plus monotonic time since then: a
//	                       clock that is set during a run does not move requests
//	  due:varint           since 1970, as start, only if it has one: when the schedule wanted it sent
//	  queue:varint         wait for a free slot
//	  status:varint        of HTTP, 0: no answer
//	  first byte:varint    response headers read, since start
//	  end:varint           last byte or failure, since start
//	  body:varint          bytes
//	  prompt:varint        tokens that the caller sent, 0: unknown
//	  input:varint         tokens, -1: not told
//	  output:varint        tokens, -1: not told
//	  images:varint pixels:varint
//	  kind:string text:string    of the error, only if failed
//	  others:string        JSON, only if it has them: retokenized, sound_seconds, sound_bytes_per_second, stages
//	  events:uvarint       their number, then each
//	event =
//	  at:varint            since the event before; the first: since start
//	  has:uvarint          api.Content
//	  tokens:varint        -1: not told
//	  usage:varint         minus that of the event before; the first: plus 1, so that "not told" all along is 0
//	  bytes:uvarint        of the payload as received
//	  read:varint          minus that of the event before; the first: as it is
//
// An event that comes within 17 s after the one before, with fewer than 8,192 tokens, a usage that moved by fewer than 8,192, a payload
// below 256 MiB and less than 64 reads later takes at most 16 bytes. Beyond that it takes more and loses nothing.
//
// Payloads, texts and headers are not kept.
package eventlog
