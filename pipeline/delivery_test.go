package pipeline

import (
	"reflect"
	"testing"
	"unsafe"

	"github.com/rishi-platform/millrace/internal/group"
)

// A byte more of a delivery costs 128, since it and the header of 8 bytes that it gets just fit into 768: with
// one of 896 consuming was 11 % slower.
func TestDeliveryFitsIntoItsSizeClass(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(delivered{}); size > 760 {
		t.Errorf("a delivery has %d bytes, want 760 at most", size)
	}
}

// What stands here and in internal/group is the same: one side writes it, and the other one reads it.
func TestTwinsOfInternalGroup(t *testing.T) {
	t.Parallel()
	for _, twin := range [][2]any{{Death{}, group.Death{}}, {Pause{}, group.Pause{}}, {Sick{}, group.Sick{}}} {
		here, there := reflect.TypeOf(twin[0]), reflect.TypeOf(twin[1])
		if here.NumField() != there.NumField() {
			t.Errorf("%v has %d fields, %v %d", here, here.NumField(), there, there.NumField())
			continue
		}
		for i := range here.NumField() {
			if a, b := here.Field(i), there.Field(i); a.Name != b.Name || a.Tag != b.Tag || a.Type.Kind() != b.Type.Kind() {
				t.Errorf("%v has %s %v %s, %v has %s %v %s", here, a.Name, a.Type, a.Tag, there, b.Name, b.Type, b.Tag)
			}
		}
	}
	for here, there := range map[string]string{
		LabelDelivery: group.LabelDelivery, AllStreams: group.AllStreams, PausedByOperator: group.PausedByOperator,
		PausedByBreaker: group.PausedByBreaker, KindTimeout: group.KindTimeout, KindCrash: group.KindCrash, KindForeign: group.KindForeign,
		OriginRetry: group.OriginRetry, OriginDrain: group.OriginDrain, OriginRestored: group.OriginRestored,
	} {
		if here != there {
			t.Errorf("%q here, %q in internal/group", here, there)
		}
	}
}
