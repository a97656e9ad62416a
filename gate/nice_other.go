//go:build !linux

package gate

import "os/exec"

// startWithLowPriority starts a process; its priority is the same as this one's, for here it could not be set for a thread alone.
func startWithLowPriority(cmd *exec.Cmd) error { return cmd.Start() }
