package redisstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
)

// The texts are what redis-server 7.0 says; each stands for an outage that somebody had.
func TestClassify(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Class{
		"NOGROUP No such key 'booking' or consumer group 'billing' in XREADGROUP with GROUP option":                                      Lost,
		"NOGROUP the consumer group this client was blocked on no longer exists":                                                         Lost,
		"UNBLOCKED the stream key no longer exists":                                                                                      Lost,
		"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)":                                   Away,
		"OOM command not allowed when used memory > 'maxmemory'.":                                                                        BackPressure,
		"NOREPLICAS Not enough good replicas to write.":                                                                                  ReadOnly,
		"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.":                               ReadOnly,
		"WRONGTYPE Operation against a key holding the wrong kind of value":                                                              Denied,
		"NOPERM this user has no permissions to run the 'xadd' command":                                                                  Denied,
		"NOPERM this user has no permissions to access one of the keys used as arguments":                                                Denied,
		"The user executing the script can't run this command or subcommand script: 0, on @user_script:23.":                              Denied,
		"ACL failure in script: User worker has no permissions to run the 'xadd' command script: 0, on @user_script:23.":                 Denied,
		"ERR ACL failure in script: User worker has no permissions to access one of the keys used as arguments":                          Denied,
		"The user executing the script can't access at least one of the keys mentioned in the command arguments script: 0, on @user_1:2": Denied,
		"WRONGPASS invalid username-password pair or user is disabled.":                                                                  Denied,
		"NOAUTH Authentication required.":                                                                                                Denied,
		"AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?":       Denied,
		"unknown command 'XADD', with args beginning with: 'booking' ":                                                                   Denied,
		"The stream has exhausted the last possible ID, unable to add more items":                                                        Denied,
		"DB index is out of range":                                                               Denied,
		"LOADING Redis is loading the dataset in memory":                                         Away,
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": Away,
		"READONLY You can't write against a read only replica.":                                  Away,
		"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.":       Away,
		"CLUSTERDOWN The cluster is down":                                                        Away,
		"TRYAGAIN Multiple keys request during rehashing of slot":                                Away,
		"max number of clients reached":                                                          Away,
		"STALE append 3 of writer w, which is at 4 script: 0, on @user_script:1.":                Other,
		"wrong number of arguments for 'xadd' command":                                           Other,
	} {
		if got := Classify(fmt.Errorf("append: %w", serverError(text))); got != want {
			t.Errorf("%s: class %d, want %d", text, got, want)
		}
		if !NotSent(serverError(text)) {
			t.Errorf("%s: it may have been carried out, want it certain that it was not", text)
		}
	}
}

func TestClassifyErrorsOfTheConnection(t *testing.T) {
	t.Parallel()
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, test := range []struct {
		err     error
		want    Class
		notSent bool
	}{
		{nil, None, false},
		{redis.Nil, None, true},
		{refused, Away, true},
		{&net.DNSError{Err: "no such host", Name: "no-such-host.invalid"}, Away, true},
		{redis.ErrPoolTimeout, Away, true},
		{io.EOF, Away, false},
		{&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, Away, false},
		{&net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}, Away, false},
		{context.DeadlineExceeded, Away, false},
		{context.Canceled, Other, false},
	} {
		if got := Classify(test.err); got != test.want {
			t.Errorf("%v: class %d, want %d", test.err, got, test.want)
		}
		if got := NotSent(test.err); got != test.notSent {
			t.Errorf("%v: certain that it was not sent: %v, want %v", test.err, got, test.notSent)
		}
		if test.err != nil && Classify(errors.Join(test.err)) != test.want {
			t.Errorf("%v: another class when it is wrapped", test.err)
		}
	}
}
