package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// patience is how long anything may take. Nothing needs it: it only turns a hang into a message.
	patience = 20 * time.Second
	// pollEvery is the pause between two looks at a fact that cannot be waited for.
	pollEvery = 2 * time.Millisecond
	// politeness is how long a server may take to end on SIGTERM before it is killed.
	politeness = 10 * time.Second
)

var errLoading = errors.New("still loading")

// process is one run of a redis-server.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has been reaped
}

// startProcess starts a server and returns when it answers, or says why it does not.
func startProcess(binary string, args []string, addr, logFile string) (*process, error) {
	p := &process{cmd: exec.Command(binary, args...), exited: make(chan struct{})}
	p.cmd.SysProcAttr = DieWithParent()
	output, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	defer output.Close() // The child has its own descriptor.
	p.cmd.Stdout, p.cmd.Stderr = output, output
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	go p.reap()
	if err := p.awaitReady(addr); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// reap is the goroutine of a running server: only a process that somebody waits for can be seen to have ended.
func (p *process) reap() {
	defer close(p.exited)
	_ = p.cmd.Wait() // How it ended does not matter; that it ended unasked shows in awaitReady and in the tests.
}

// awaitReady returns when the server answers PING and has read its files.
func (p *process) awaitReady(addr string) error {
	last := errors.New("no answer")
	err := p.poll(func() bool {
		last = ping(addr, p.cmd.Process.Pid)
		return last == nil
	})
	if err != nil {
		return fmt.Errorf("wait for the server at %s: %w (last: %w)", addr, err, last)
	}
	return nil
}

// poll looks at a fact until it holds, the process ends or patience does.
func (p *process) poll(fact func() bool) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !fact() {
		select {
		case <-p.exited:
			return errors.New("the process has ended")
		case <-deadline.C:
			return fmt.Errorf("not within %s", patience)
		case <-ticker.C:
		}
	}
	return nil
}

// stop asks the process to end, and makes it when it does not. A frozen one is woken first: it cannot hear otherwise.
func (p *process) stop() {
	p.signal(syscall.SIGCONT)
	p.signal(syscall.SIGTERM)
	timer := time.NewTimer(politeness)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		p.kill()
	}
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// signal ignores errors: the only one is that the process has ended, which its caller waits for or notices.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// ping reports whether the server at addr is the process pid and ready. It speaks the protocol by hand: a client would
// retry, pool and greet.
func ping(addr string, pid int) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("PING\r\nINFO server\r\n")); err != nil {
		return err
	}
	replies := bufio.NewReader(conn)
	reply, err := replies.ReadString('\n')
	switch {
	case err != nil:
		return err
	case strings.HasPrefix(reply, "-LOADING"):
		return errLoading
	case strings.HasPrefix(reply, "-NOAUTH"):
		return nil // It wants a password, so it is ready; it does not say who it is.
	case !strings.HasPrefix(reply, "+PONG"):
		return fmt.Errorf("answer to PING: %s", strings.TrimSpace(reply))
	}
	return checkPID(replies, pid)
}

// checkPID reads the answer to INFO. Two test binaries may take the same free port at the same moment; the one whose server
// could not have it would else go on with a server that ends when the other binary does.
func checkPID(replies *bufio.Reader, pid int) error {
	for {
		line, err := replies.ReadString('\n')
		if err != nil {
			return fmt.Errorf("read INFO: %w", err)
		}
		if id, found := strings.CutPrefix(strings.TrimSpace(line), "process_id:"); found {
			if id != strconv.Itoa(pid) {
				return fmt.Errorf("process %s has the port", id)
			}
			return nil
		}
	}
}
