package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"millrace"
)

// sellCmd is one process of a flash sale: it says "ready", waits for a line on its standard input, places its orders, prints a line for
// each and "done", and works jobs until its input ends.
type sellCmd struct {
	DatabaseURL string `required:""`
	Orders      int    `required:""`
	Clients     int    `required:""`
	SKUs        int    `name:"skus" required:""`
}

// Run sells.
func (c *sellCmd) Run(ctx context.Context, stdio stdio) error {
	p, err := millraceMode().start(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer p.close()
	in := bufio.NewReader(os.Stdin)
	fmt.Fprintln(stdio.out, "ready")
	if _, err := in.ReadString('\n'); err != nil {
		return fmt.Errorf("wait for the start: %w", err)
	}
	attempts, err := c.place(ctx, p)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(stdio.out)
	for _, a := range attempts {
		fmt.Fprintln(out, a.id, a.sku, a.posted, a.acknowledged)
	}
	fmt.Fprintln(out, "done")
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// place has clients place the orders as fast as each gets its answers.
func (c *sellCmd) place(ctx context.Context, p *pipeline) ([]attempt, error) {
	attempts := make([]attempt, c.Orders)
	errs := make([]error, c.Clients)
	var next atomic.Int64
	var wg sync.WaitGroup
	for client := range c.Clients {
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= c.Orders || errs[client] != nil {
					return
				}
				attempts[n], errs[client] = c.buy(ctx, p, n)
			}
		})
	}
	wg.Wait()
	return attempts, errors.Join(errs...)
}

func (c *sellCmd) buy(ctx context.Context, p *pipeline, n int) (attempt, error) {
	a := attempt{sku: sku(n % c.SKUs)}
	request := requestFor(a.sku)
	request.Principal = millrace.Principal{Subject: fmt.Sprintf("buyer-%d-%d", os.Getpid(), n%1000)}
	a.posted = time.Now().UnixNano()
	placed, err := p.store.PlaceOrder(ctx, request)
	a.acknowledged = time.Now().UnixNano()
	if err != nil {
		return a, err
	}
	a.id = placed.Order.ID
	return a, nil
}

// seller is a sellCmd in a process of its own, as the sale sees it.
type seller struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	errors tail
}

// startSeller starts a sellCmd of a program, of this one if it is "".
func startSeller(ctx context.Context, program string, args ...string) (s *seller, err error) {
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	s = &seller{cmd: exec.CommandContext(ctx, program, append([]string{"sell"}, args...)...)}
	s.cmd.Stderr = &s.errors
	s.cmd.WaitDelay = 5 * time.Second
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *seller) say(line string) error {
	_, err := fmt.Fprintln(s.in, line)
	return err
}

func (s *seller) line() (string, error) {
	line, err := s.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("a process of the sale ended early: %w: %s", err, &s.errors)
	}
	return strings.TrimSuffix(line, "\n"), nil
}

func (s *seller) expect(want string) error {
	line, err := s.line()
	if err == nil && line != want {
		return fmt.Errorf("a process of the sale said %q, not %q", line, want)
	}
	return err
}

// attempts reads what became of the orders it placed.
func (s *seller) attempts() ([]attempt, error) {
	var attempts []attempt
	for {
		line, err := s.line()
		if err != nil {
			return nil, err
		}
		if line == "done" {
			return attempts, nil
		}
		var a attempt
		var id string
		if _, err := fmt.Sscan(line, &id, &a.sku, &a.posted, &a.acknowledged); err != nil {
			return nil, fmt.Errorf("read %q: %w", line, err)
		}
		if a.id, err = uuid.Parse(id); err != nil {
			return nil, err
		}
		attempts = append(attempts, a)
	}
}

// stop lets the process finish the jobs it runs, and waits for it.
func (s *seller) stop() error {
	_ = s.in.Close() // a process that is gone already says so by its status
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("a process of the sale: %w: %s", err, &s.errors)
	}
	return nil
}
