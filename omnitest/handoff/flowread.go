package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
)

// maxLedger bounds a ledger page: 4096 records of long plans and tickets stay well below.
const maxLedger = 256 << 20

// flowReader reads a proxy's ledger from a remembered point on.
type flowReader struct {
	base   string
	client *http.Client
	since  int64
	absent string // why there is no ledger; "": there is one
	given  Ledger // read instead; nil: base + flow.Path
}

func newFlowReader(entry *api.Client, given Ledger) flowReader {
	if given != nil {
		return flowReader{given: given}
	}
	if entry == nil {
		return flowReader{absent: "no entry given"}
	}
	r := flowReader{base: entry.BaseURL, client: plain}
	if entry.HTTP != nil {
		r.client = entry.HTTP
	}
	return r
}

// errNoLedger is a server that answers but keeps no ledger: any proxy that is not ours.
var errNoLedger = errors.New("this proxy keeps no flow ledger")

// mark remembers the latest record. A foreign proxy without a ledger is not an error; one that cannot be reached is.
func (r *flowReader) mark(ctx context.Context) error {
	if r.absent != "" {
		return nil
	}
	page, err := r.fetch(ctx, math.MaxInt64)
	if errors.Is(err, errNoLedger) {
		r.absent = err.Error()
		return nil
	}
	r.since = page.Last
	return err
}

// read gives the records of the window, after a short wait for those that the proxy has not finished writing: a client
// sees the last byte before the proxy closes its record.
func (r *flowReader) read(ctx context.Context) Flow {
	if r.absent != "" {
		return Flow{Note: r.absent}
	}
	for patience := time.Now().Add(2 * time.Second); ; {
		page, err := r.fetch(ctx, r.since)
		records := page.Records
		if err != nil {
			return Flow{Kept: true, Note: "could not be read at the end of the window: " + err.Error()}
		}
		open := false
		for i := range records {
			open = open || records[i].Outcome == "in-flight"
		}
		if !open || time.Now().After(patience) || sleep(ctx, 20*time.Millisecond) != nil {
			return joined(records)
		}
	}
}

// joined keeps apart the legs of which it is not known whose they are: a request that lacks its leg, and a leg that lacks its
// request, must not be judged as if they were whole.
func joined(records []flow.Record) Flow {
	f := Flow{Kept: true}
	for _, r := range records {
		if r.Outcome == "unjoined" {
			f.Loose = append(f.Loose, r)
		} else {
			f.Records = append(f.Records, r)
		}
	}
	if n := len(f.Loose); n > 0 {
		f.Note = fmt.Sprintf("has %d record%s that could not be joined to a request for certain: %s", n, plural(float64(n)), f.Loose[0].Error)
	}
	return f
}

func (r *flowReader) fetch(ctx context.Context, since int64) (page flow.Page, err error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeLimit)
	defer cancel()
	if r.given != nil {
		if page, err = r.given.Page(ctx, since); err != nil {
			err = fmt.Errorf("flow ledger: %w", err)
		}
		return page, err
	}
	where := r.base + flow.Path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s?since=%d", where, since), nil)
	if err != nil {
		return page, fmt.Errorf("flow ledger: %w", err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		if u := new(url.Error); errors.As(err, &u) {
			err = u.Err
		}
		return page, fmt.Errorf("flow ledger %s: %w", where, err)
	}
	defer resp.Body.Close()
	// A proxy that passes unknown paths to an engine answers its 404; one that serves a page answers HTML with 200.
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); resp.StatusCode != http.StatusOK || kind != "application/json" {
		return page, fmt.Errorf("%w (%s answered HTTP %d, %q)", errNoLedger, where, resp.StatusCode, kind)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxLedger))
	if err != nil {
		return page, fmt.Errorf("flow ledger %s: %w", where, err)
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return page, fmt.Errorf("flow ledger %s: %w", where, err)
	}
	return page, nil
}
