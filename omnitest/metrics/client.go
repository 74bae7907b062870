package metrics

// ClientError is what the measuring side did to its own figures. It stands in every result beside them: a client that is late
// itself reports the server as slow. The room canary measures it, the room report shows it.
type ClientError struct {
	Dispatch Lateness `json:"dispatch"` // sent - due, of the requests of the run
	Event    Lateness `json:"event"`    // read - due, of the canary's events: a loopback stream on the same code path. An upper bound
	Read     Lateness `json:"read"`     // read - written, of the same events: the lower bound, blind for a process that stood still

	CPU       Value `json:"cpu"`        // cores that this process used, mean over the run
	CPUShare  Value `json:"cpu_share"`  // CPU / GOMAXPROCS
	Steal     Value `json:"steal"`      // share of the machine's CPU time that its host took
	GCs       Value `json:"gcs"`        // garbage collections
	GCPause   Value `json:"gc_pause"`   // ms, p99 of their stop-the-world pauses
	Sched     Value `json:"sched"`      // ms, p99 of the time that goroutines waited for a thread
	Coalesced Value `json:"coalesced"`  // share of reads that brought two or more events of one stream
	LittleGap Value `json:"little_gap"` // |mean in flight - throughput x mean latency| / mean in flight

	Verdict string   `json:"verdict"`           // ClientValid, ClientInvalid or ClientUnknown
	Reasons []string `json:"reasons,omitempty"` // each with the figure and its limit
}

// Verdicts on the client (facts: dispatch p99 over 1 % of the median TTFT, event lateness p99 over 5 % of the median ITL, CPU
// over 70 % of its cores, or more than 1 % of reads coalesced).
const (
	ClientValid   = "valid"
	ClientInvalid = "INVALID-CLIENT"
	ClientUnknown = "not measured"
)

// Lateness is a distribution of delays in ms.
type Lateness struct {
	N    int   `json:"n"`
	P50  Value `json:"p50"`
	P99  Value `json:"p99"`
	P999 Value `json:"p99.9"`
	Max  Value `json:"max"`
}
