package ar

import "github.com/omnitest/suite/omnitest/internal/replay"

// compare adds a row for each field in which our answer differs from the recorded one.
func (x *conformance) compare(e replay.Exchange, a sentAnswer) {
	x.t.Helper()
	want, got := fields{"connection": "refused"}, fields{"connection": "refused"}
	if len(e.Chunks) > 0 {
		want = replay.FieldsOf(e.Status, e.Header, string(e.Body), e.Unfinished())
	}
	if !a.dead {
		got = replay.FieldsOf(a.status, a.header, a.body, a.hung)
	}
	if want["connection"] != got["connection"] { // the other fields tell nothing more
		want, got = fields{"connection": want["connection"]}, fields{"connection": got["connection"]}
	}
	for _, d := range replay.Differences(want, got) {
		r := row{d.Field, d.Want, d.Got}
		x.rows[r] = append(x.rows[r], e.Name)
	}
}
