package group

import (
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// The verdict of the consumer "me" on what the records of its streams say.
func TestG09Judge(t *testing.T) {
	t.Parallel()
	old, young := breakerHeard, breakerHeard-time.Second
	pause, stop, none := verdict{pause: "refused"}, verdict{stop: "refused"}, verdict{}
	flow := func(age time.Duration, peers []string, rows ...any) streamFlow {
		f := streamFlow{Flow: redisstream.Flow{Age: age}, peers: peers}
		for i := 0; i < len(rows); i += 3 {
			f.Rows = append(f.Rows, redisstream.FlowRow{Consumer: rows[i].(string), Print: rows[i+1].(string), Events: int64(rows[i+2].(int))})
		}
		return f
	}
	peer, peers := []string{"peer"}, []string{"peer", "third"}
	for name, test := range map[string]struct {
		flows []streamFlow
		want  verdict
	}{
		"nothing":                       {nil, none},
		"five failing events":           {[]streamFlow{flow(0, nil, "me", "refused", 5)}, none},
		"19 failed":                     {[]streamFlow{flow(0, nil, "me", "refused", 19)}, none},
		"20 failed":                     {[]streamFlow{flow(0, nil, "me", "refused", 20)}, pause},
		"one of 21 was handled":         {[]streamFlow{flow(0, nil, "me", "refused", 20, "me", "+", 1)}, none},
		"199, nearly all failed":        {[]streamFlow{flow(0, nil, "me", "refused", 190, "me", "+", 9)}, none},
		"200, nearly all failed":        {[]streamFlow{flow(0, nil, "me", "refused", 190, "me", "+", 10)}, pause},
		"200, a tenth was handled":      {[]streamFlow{flow(0, nil, "me", "refused", 180, "me", "+", 20)}, none},
		"three reasons":                 {[]streamFlow{flow(0, nil, "me", "a", 70, "me", "b", 70, "me", "refused", 71)}, none},
		"four of five for one reason":   {[]streamFlow{flow(0, nil, "me", "refused", 80, "me", "b", 20)}, pause},
		"over the streams":              {[]streamFlow{flow(0, nil, "me", "refused", 10), flow(0, nil, "me", "refused", 10)}, pause},
		"over the consumers":            {[]streamFlow{flow(old, peers, "me", "refused", 7, "peer", "refused", 7, "third", "refused", 7)}, pause},
		"others may have handled some":  {[]streamFlow{flow(young, peer, "me", "refused", 30, "peer", "refused", 1)}, none},
		"all but me":                    {[]streamFlow{flow(old, peers, "me", "+", 1, "peer", "refused", 600)}, none},
		"all but me, I failed once":     {[]streamFlow{flow(old, peers, "me", "+", 5, "me", "refused", 1, "peer", "refused", 600)}, none},
		"all but me, who did nothing":   {[]streamFlow{flow(old, peers, "peer", "refused", 600)}, none},
		"I alone":                       {[]streamFlow{flow(young, peer, "me", "refused", 20, "peer", "+", 1)}, stop},
		"I alone, and much faster":      {[]streamFlow{flow(old, peer, "me", "refused", 600, "peer", "+", 5)}, stop},
		"I alone, elsewhere it works":   {[]streamFlow{flow(old, peer, "me", "refused", 20), flow(old, peer, "peer", "+", 3)}, stop},
		"I alone, too few":              {[]streamFlow{flow(old, peer, "me", "refused", 19, "peer", "+", 600)}, none},
		"the other one is busy":         {[]streamFlow{flow(old, peer, "me", "refused", 20)}, stop},
		"the other one may be":          {[]streamFlow{flow(young, peer, "me", "refused", 20)}, none},
		"two sick ones, one works":      {[]streamFlow{flow(old, peers, "me", "refused", 300, "peer", "refused", 300, "third", "+", 5)}, stop},
		"all fail, some more than once": {[]streamFlow{flow(old, peers, "me", "refused", 30, "peer", "refused", 30, "third", "refused", 2)}, pause},
		"who is gone does not count":    {[]streamFlow{flow(old, nil, "me", "refused", 20, "dead", "+", 100)}, pause},
	} {
		if got := judge(test.flows, "me"); got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}
