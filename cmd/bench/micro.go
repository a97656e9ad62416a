package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

type microCmd struct {
	Bench string        `default:"." placeholder:"REGEXP" help:"Which of them to run. Default: all."`
	Count int           `default:"6" help:"How often to run each; benchstat wants six at least."`
	Time  time.Duration `default:"1s" help:"For how long to run each, at least."`
}

// microPackages are those with benchmarks beside their code.
func microPackages() []string {
	return []string{"millrace/db/group", "millrace/http/live", "millrace/gate", "millrace/provider/simulated"}
}

// Run runs the Go benchmarks and prints what they print.
func (c *microCmd) Run(ctx context.Context, stdio stdio) error {
	args := append([]string{"test", "-run=^$", "-benchmem", "-bench=" + c.Bench, fmt.Sprintf("-count=%d", c.Count), "-benchtime=" + c.Time.String()}, microPackages()...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stdout, cmd.Stderr = stdio.out, stdio.err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go test (run the bench inside Millrace's sources): %w", err)
	}
	return nil
}
