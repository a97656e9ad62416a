package gate

import (
	"os/exec"
	"runtime"
	"syscall"
)

// helperNice is the priority of helpers: where others want the processor they get about a tenth of a core, so that logins go on, and
// whoever wakes up to pass on a request goes first.
const helperNice = 10

// startWithLowPriority starts a process whose every thread has a low priority from its first moment: a process gets the priority of
// the thread that starts it. That thread ends with the goroutine, for it could not go back.
func startWithLowPriority(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, helperNice) // of this thread; where that is forbidden, the helper is worth having all the same
		started <- cmd.Start()
	}()
	return <-started
}
