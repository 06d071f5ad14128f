package group

import (
	"os"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }
