package redisstream

import "testing"

// Valkey shows its own version, and not that of the Redis that it claims to be for old clients.
func TestP27VersionOfValkey(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n":                     "7.0.15",
		"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n": "valkey 8.1.1",
		"": "",
	} {
		if got := serverVersion(infoFields(text)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
