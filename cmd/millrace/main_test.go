package main

import (
	"os"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
)

func TestMain(m *testing.M) {
	if os.Getenv(asMillrace) != "" {
		os.Exit(run())
	}
	os.Exit(redistest.Run(m))
}
