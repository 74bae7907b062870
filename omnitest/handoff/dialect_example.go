package handoff

// Example is ExampleConnector (once SharedStorageConnector): files per hash of the aligned prompt, no ticket, no count of
// bytes. Its windows rest on tokens and content alone. It has no series of its own either (recorded on 0.32.0), so Detect
// cannot find it: name it.
var Example = func() Dialect {
	d := vllm
	d.Name, d.TailBlock = "example", true
	d.Connectors = []string{"ExampleConnector", "SharedStorageConnector"}
	d.Lacks = "example: bytes are not counted and there are no tickets, so the verdict rests on tokens and content"
	return d
}()
