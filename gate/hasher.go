package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"
)

// hashWork is one password to hash, as a helper is told it: a line of JSON for each, answered by a line with the sum.
type hashWork struct {
	Input   []byte `json:"input"` // the password
	Salt    []byte `json:"salt"`
	Time    uint32 `json:"time"`
	Memory  uint32 `json:"memory"` // KiB
	Threads uint8  `json:"threads"`
	Length  uint32 `json:"length"` // of the sum
}

func (w hashWork) sum() []byte {
	return argon2.IDKey(w.Input, w.Salt, w.Time, w.Memory, w.Threads, w.Length)
}

// HashPasswords does the work of a helper process, see Config.HashHelper: it hashes what in asks for, one after the other, and writes
// the sums to out until in ends. The process should let no signal end it: it ends with the gate.
func HashPasswords(in io.Reader, out io.Writer) error {
	questions, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var w hashWork
		if err := questions.Decode(&w); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read what to hash: %w", err)
		}
		if w.Time < 1 || w.Threads < 1 {
			return invalid("argon2id needs at least one pass and one lane")
		}
		if err := answers.Encode(w.sum()); err != nil {
			return fmt.Errorf("write a sum: %w", err)
		}
	}
}

// helperPatience is how long a helper may take for one password. On a machine that is busy with other things, it gets little of it.
const helperPatience = 15 * time.Second

// helpers are processes of low priority that hash passwords. Hashing holds a core for tens of milliseconds and fills memory that must
// then be collected: done here, either makes requests wait that have nothing to do with it. A thread of low priority in this process is
// no way out, since the collector waits for every thread to stop, also for one that does not get to run.
type helpers struct {
	command  []string
	patience time.Duration

	mu     sync.Mutex
	idle   []*helper
	all    map[*helper]struct{}
	closed bool
}

// helper is a process that answers one question at a time.
type helper struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *os.File
	reply *json.Decoder
}

func newHelpers(command []string) *helpers {
	return &helpers{command: command, patience: helperPatience, all: map[*helper]struct{}{}}
}

// sum has a helper hash a password; one is started if none is idle, which the hasher's slots bound.
func (p *helpers) sum(w hashWork) ([]byte, error) {
	h, err := p.take()
	if err != nil {
		return nil, err
	}
	sum, err := h.ask(w, p.patience)
	if err == nil && len(sum) != int(w.Length) {
		err = fmt.Errorf("a sum of %d bytes instead of %d", len(sum), w.Length)
	}
	if err != nil {
		p.drop(h)
		return nil, fmt.Errorf("hash in a helper: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, h)
	return sum, nil
}

var errHelpersClosed = errors.New("the helpers have ended")

func (p *helpers) take() (*helper, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errHelpersClosed
	}
	if n := len(p.idle); n > 0 {
		h := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return h, nil
	}
	h, err := startHelper(p.command)
	if err != nil {
		return nil, fmt.Errorf("start a helper: %w", err)
	}
	p.all[h] = struct{}{}
	return h, nil
}

// drop ends a helper that failed, whatever it is doing.
func (p *helpers) drop(h *helper) {
	p.mu.Lock()
	delete(p.all, h)
	p.mu.Unlock()
	_ = h.cmd.Process.Kill() // it may be gone already
	h.end()
}

// close ends the helpers. Call it once no password is being hashed.
func (p *helpers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for h := range p.all {
		h.end()
	}
}

func startHelper(command []string) (*helper, error) {
	h := &helper{cmd: exec.Command(command[0], command[1:]...)} //nolint:noctx // the configuration names it, and it ends with its input
	h.cmd.Env = []string{"GOMAXPROCS=1"}                        // nothing of the gate's, where secrets are
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, h.in.Close())
	}
	h.out, h.cmd.Stdout, h.reply = out, in, json.NewDecoder(out)
	err = startWithLowPriority(h.cmd)
	if err = errors.Join(err, in.Close()); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return h, nil
}

func (h *helper) ask(w hashWork, patience time.Duration) (sum []byte, err error) {
	if err := h.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(h.in).Encode(w); err != nil {
		return nil, err
	}
	err = h.reply.Decode(&sum)
	return sum, err
}

// end waits for a helper that has nothing more to do.
func (h *helper) end() {
	_, _ = h.in.Close(), h.out.Close() // pipes: nothing is lost
	_ = h.cmd.Wait()                   // how it ended matters to nobody
}
