package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/rishi-platform/millrace/internal/units"
)

// durationValue is a flag that takes days and weeks too.
type durationValue time.Duration

// durationVar defines a flag for a duration.
func durationVar(f *pflag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	f.Var((*durationValue)(p), name, usage)
}

func (d *durationValue) Set(text string) error {
	value, err := units.Duration(text)
	if err == nil {
		*d = durationValue(value)
	}
	return err
}

func (d *durationValue) Type() string   { return "duration" }
func (d *durationValue) String() string { return time.Duration(*d).String() }

// bytesValue is a flag that takes sizes such as 1GiB.
type bytesValue int64

// bytesVar defines a flag for a size.
func bytesVar(f *pflag.FlagSet, p *int64, name string, value int64, usage string) {
	*p = value
	f.Var((*bytesValue)(p), name, usage)
}

func (b *bytesValue) Set(text string) error {
	value, err := units.Bytes(text)
	if err == nil {
		*b = bytesValue(value)
	}
	return err
}

func (b *bytesValue) Type() string { return "bytes" }

func (b *bytesValue) String() string {
	for shift, unit := range map[int]string{30: "GiB", 20: "MiB", 10: "KiB"} {
		if n := int64(*b) >> shift; n > 0 && n<<shift == int64(*b) && n < 1024 {
			return fmt.Sprint(n, unit)
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}
