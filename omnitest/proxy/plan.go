package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/omnitest/suite/omnitest/flow"
)

// arModel is the AR model as decode's /v1/models tells it, asked once. A channel is the lock, because waiting for it must end
// with the request that waits.
type arModel struct {
	lock   chan struct{}
	known  bool
	name   string
	maxLen int // tokens of prompt and answer together; 0: the server does not say
}

// askModel is the model that AR legs made by the proxy itself are for.
func (c *call) askModel() (name string, maxLen int, _ *failure) {
	m, want := &c.p.model, c.p.c.Model
	select {
	case m.lock <- struct{}{}:
		defer func() { <-m.lock }()
	case <-c.r.Context().Done():
		return "", 0, &failure{stage: "decode", cancelled: true, cause: "client went away while the model name was asked"}
	}
	if m.known {
		return m.name, m.maxLen, nil
	}
	body, err := c.p.get(c.r.Context(), c.p.c.Decode+"/v1/models", c.r.Header.Get("Authorization"), modelsLimit)
	var list struct {
		Data []struct {
			ID     string
			MaxLen int `json:"max_model_len"`
		}
	}
	if err == nil {
		if err = json.Unmarshal(body, &list); err != nil || len(list.Data) == 0 || list.Data[0].ID == "" {
			err = errors.New("no model in " + excerpt(body))
		}
	}
	if err != nil {
		if want != "" {
			return want, 0, nil // a server without this route; ask again next time
		}
		return "", 0, badGateway("decode", "asking /v1/models for the model name: "+err.Error())
	}
	model := list.Data[0]
	for _, other := range list.Data {
		if other.ID == want {
			model = other
		}
	}
	if want == "" {
		want = model.ID
	}
	m.known, m.name, m.maxLen = true, want, model.MaxLen
	return m.name, m.maxLen, nil
}

func (m *arModel) forget() {
	m.lock <- struct{}{}
	m.known = false
	<-m.lock
}

// planLegs runs both AR legs of a picture request and returns the text that decode generated for the DiT.
func (c *call) planLegs(path string, ask object) (string, *failure) {
	const kind = "application/json"
	t, f := c.prefill(path, kind, ask)
	if f != nil {
		if f.status == http.StatusNotFound {
			c.p.model.forget() // the engines were restarted with another model
		}
		return "", f
	}
	rep, f := c.send(c.decodeLeg(path, kind, ask, t))
	if f != nil {
		return "", f
	}
	raw, f := rep.whole()
	if f != nil {
		return "", f
	}
	a, cause := readAnswer(raw)
	plan := ""
	if cause == "" {
		if plan = a.text(); len(bytes.TrimSpace([]byte(plan))) == 0 {
			cause = "produced an empty plan" + a.finish()
		}
	}
	rep.update(func(h *flow.Hop) { h.ResponseID, h.TicketOut, h.Plan = a.ID, a.ticket(), plan })
	rep.end(cause)
	if cause != "" {
		return "", badGateway("decode", cause)
	}
	return c.p.crossPlan(plan), nil
}
