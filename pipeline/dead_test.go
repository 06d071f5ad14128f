package pipeline

import "testing"

// deadLetters returns all dead letters of a group.
func deadLetters(t *testing.T, b *Bus, stream, group string) []DeadLetter {
	t.Helper()
	var all []DeadLetter
	for d, err := range b.DeadLetters(t.Context(), DeadQuery{Stream: stream, Group: group}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}
