package refstack

import (
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

func TestParseFaultsSetsTheNamedSwitches(t *testing.T) {
	f, err := ParseFaults(" decode.silent-recompute, dit.wrong-size,,decode.transfer-fails=recompute,proxy.drop-ticket,prefill.zero-blocks")
	require.NoError(t, err)
	assert.Equal(t, Faults{
		Proxy:   proxy.Faults{DropTicket: true},
		Prefill: ar.Faults{ZeroBlocks: true},
		Decode:  ar.Faults{SilentRecompute: true, TransferFails: "recompute"},
		DiT:     dit.Faults{WrongSize: true},
	}, f)
	assert.True(t, f.Any())
	assert.Equal(t, "proxy.drop-ticket,prefill.zero-blocks,decode.silent-recompute,decode.transfer-fails=recompute,dit.wrong-size", f.String())

	f, err = ParseFaults("decode.transfer-fails")
	require.NoError(t, err)
	assert.Equal(t, "fail", f.Decode.TransferFails, "no value given: the first one")

	f, err = ParseFaults("")
	require.NoError(t, err)
	assert.False(t, f.Any())
	assert.Empty(t, f.String())
}

func TestParseFaultsRefuses(t *testing.T) {
	_, err := ParseFaults("decode.transfer-fails=maybe")
	assert.EqualError(t, err, "fault decode.transfer-fails=maybe: want one of fail, recompute")

	_, err = ParseFaults("dit.blank=yes")
	assert.EqualError(t, err, `fault dit.blank takes no value, got "yes"`)

	// A decode switch on the prefill side would do nothing: it must not be accepted as a fault that was planted.
	for _, name := range []string{"decode.slient-recompute", "prefill.silent-recompute", "dit", "Proxy.drop-ticket"} {
		_, err = ParseFaults("dit.blank," + name)
		require.ErrorContains(t, err, `unknown fault "`+name+`"; known faults: decode.`)
		for _, known := range AllFaults() {
			assert.ErrorContains(t, err, known.Name)
		}
	}
}

func TestAllFaultsIsCompleteAndOrdered(t *testing.T) {
	all := AllFaults()
	byName := map[string]FaultInfo{}
	rank := map[string]int{"proxy": 0, "prefill": 1, "decode": 2, "dit": 3}
	for i, f := range all {
		assert.NotEmpty(t, f.Doc, f.Name)
		assert.NotContains(t, byName, f.Name)
		assert.Regexp(t, `^(proxy|prefill|decode|dit)\.[a-z0-9]+(-[a-z0-9]+)*$`, f.Name)
		byName[f.Name] = f
		if i > 0 {
			before, stage := rank[stageOf(all[i-1].Name)], rank[stageOf(f.Name)]
			assert.True(t, before < stage || before == stage && all[i-1].Name < f.Name, "%s after %s", f.Name, all[i-1].Name)
		}
	}
	assert.Equal(t, "proxy", stageOf(all[0].Name))
	assert.Equal(t, []string{"fail", "recompute"}, byName["decode.transfer-fails"].Values)
	assert.Nil(t, byName["decode.silent-recompute"].Values)

	// Every field of every room's Faults is reachable by exactly one name.
	fields := 0
	for _, v := range []any{proxy.Faults{}, ar.Faults{}, dit.Faults{}} {
		fields += numField(v)
	}
	assert.Len(t, all, fields)
}

func TestFaultsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := ""
		for _, f := range AllFaults() {
			if !rapid.Bool().Draw(t, f.Name) {
				continue
			}
			list += "," + f.Name
			if f.Values != nil {
				list += "=" + rapid.SampledFrom(f.Values).Draw(t, f.Name+" value")
			}
		}
		f, err := ParseFaults(list)
		require.NoError(t, err)
		again, err := ParseFaults(f.String())
		require.NoError(t, err)
		require.Equal(t, f, again)
		require.Equal(t, list != "", f.Any())
		require.Equal(t, list, map[bool]string{true: "", false: "," + f.String()}[list == ""])
	})
}

func stageOf(name string) string { stage, _, _ := strings.Cut(name, "."); return stage }

func numField(v any) int { return reflect.TypeOf(v).NumField() }

func TestStagesOfFaults(t *testing.T) {
	f, err := ParseFaults("dit.blank,proxy.drop-ticket,dit.stall")
	require.NoError(t, err)
	require.Equal(t, []string{"proxy", "dit"}, f.Stages())
	require.Empty(t, Faults{}.Stages())
}
