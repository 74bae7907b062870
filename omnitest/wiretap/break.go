package wiretap

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
)

// breakage is what a tap does instead of passing requests on.
type breakage struct {
	mu     sync.Mutex
	status int           // answer this; 0: hang
	healed chan struct{} // closed by Heal; nil: the stage is whole
}

func (b *breakage) set(status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = status
	if b.healed == nil {
		b.healed = make(chan struct{})
	}
}

func (b *breakage) heal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.healed != nil {
		close(b.healed)
	}
	b.healed, b.status = nil, 0
}

func (b *breakage) now() (status int, healed chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status, b.healed
}

// Refuse makes a stage answer every request with this status and an error in vLLM's shape, until Heal.
func (t *Taps) Refuse(stage string, status int) error {
	if status < 400 || status > 599 {
		return fmt.Errorf("wiretap: refuse with %d: want a status from 400 to 599", status)
	}
	return t.damage(stage, status)
}

// Hang makes a stage accept requests and not answer them, as a stopped process does. Heal lets those that still wait go on.
func (t *Taps) Hang(stage string) error { return t.damage(stage, 0) }

func (t *Taps) damage(stage string, status int) error {
	x := t.taps[stage]
	if x == nil {
		return fmt.Errorf("wiretap: there is no tap in front of stage %q", stage)
	}
	x.broken.set(status)
	return nil
}

// Heal ends Refuse and Hang. Healing what is whole is nothing.
func (t *Taps) Heal(stage string) error {
	x := t.taps[stage]
	if x == nil {
		return fmt.Errorf("wiretap: there is no tap in front of stage %q", stage)
	}
	x.broken.heal()
	return nil
}

// Break refuses with 503 until mended. It has the form of probe.Options.Break.
func (t *Taps) Break(_ context.Context, stage string) (mend func() error, err error) {
	if err := t.Refuse(stage, http.StatusServiceUnavailable); err != nil {
		return nil, err
	}
	return func() error { return t.Heal(stage) }, nil
}

var errRefused = errors.New("refused by the tap")

// damaged deals with a request to a broken stage; true: it is dealt with.
func (x *tap) damaged(w http.ResponseWriter, r *http.Request, m *mark) bool {
	status, healed := x.broken.now()
	switch {
	case healed == nil:
		return false
	case status > 0:
		body := []byte(fmt.Sprintf(`{"error":{"message":%q,"type":%q,"param":null,"code":%d}}`, errRefused, http.StatusText(status), status))
		m.header(status, "")
		m.end(statusCause(status, body), false)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(status)
		_, _ = w.Write(body) // a client that is gone is nobody's failure
		return true
	}
	select {
	case <-healed:
		return false
	case <-r.Context().Done():
		m.end(gone+": no answer", true)
		panic(http.ErrAbortHandler)
	}
}
