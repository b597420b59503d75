//go:build linux

package integration_test

import (
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }
