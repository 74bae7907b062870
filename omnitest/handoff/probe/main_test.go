package probe_test

import (
	"testing"

	"github.com/omnitest/suite/omnitest/internal/refpd"
)

func TestMain(m *testing.M) { refpd.Main(m) }
