package perf

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// spoolAbove is how many bytes of pictures wait in memory for their judge. A run of an hour has more than a machine has memory: beyond
// that they wait on disk.
const spoolAbove = 256 << 20

// spool keeps the files of answers until they are judged. The zero value works.
type spool struct {
	above int64 // 0: spoolAbove
	held  atomic.Int64
	busy  sync.WaitGroup

	mu    sync.Mutex
	file  *os.File
	end   int64
	err   error
	where map[*api.Image]place
}

// place is a picture in the file.
type place struct{ at, n int64 }

// keep takes over an answer. It writes in the background: the load does not wait for it.
func (s *spool) keep(answer *api.Images) {
	above := s.above
	if above == 0 {
		above = spoolAbove
	}
	for i := range answer.Items {
		im := &answer.Items[i]
		if s.held.Add(int64(len(im.Raw))) > above {
			s.busy.Go(func() { s.put(im) })
		}
	}
}

func (s *spool) put(im *api.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	if s.file == nil {
		if s.file, s.err = os.CreateTemp("", "omnitest-perf-*.pictures"); s.err != nil {
			return
		}
		// Open is enough to read it: where the system allows it, nothing stays behind when the run is killed.
		_ = os.Remove(s.file.Name())
		s.where = map[*api.Image]place{}
	}
	if _, s.err = s.file.WriteAt(im.Raw, s.end); s.err != nil {
		return // it stays in memory
	}
	n := int64(len(im.Raw))
	s.where[im] = place{s.end, n}
	s.end += n
	s.held.Add(-n)
	im.Raw = nil
}

// wait is for all that is being written. An error says that the disk did not take some: those are in memory still.
func (s *spool) wait() error {
	s.busy.Wait()
	return s.err
}

// back gives an answer its files again, after wait.
func (s *spool) back(answer *api.Images) error {
	for i := range answer.Items {
		im := &answer.Items[i]
		if p, out := s.where[im]; out {
			im.Raw = make([]byte, p.n)
			if _, err := s.file.ReadAt(im.Raw, p.at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *spool) close() error {
	if s.file == nil {
		return nil
	}
	_ = os.Remove(s.file.Name()) // where an open file could not be removed
	return s.file.Close()
}

func TestSpool(t *testing.T) {
	s := spool{above: 100}
	var all []*api.Images
	for i := range 8 {
		answer := &api.Images{Items: []api.Image{{Raw: []byte(fmt.Sprintf("%040d", i))}}}
		all = append(all, answer)
		s.keep(answer)
	}
	require.NoError(t, s.wait())
	assert.LessOrEqual(t, s.held.Load(), int64(120))
	for i, answer := range all {
		require.NoError(t, s.back(answer))
		assert.Equal(t, fmt.Sprintf("%040d", i), string(answer.Items[0].Raw))
	}
	require.NoError(t, s.close())
}
