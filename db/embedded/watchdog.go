package embedded

import (
	"io"
	"os/exec"
	"strconv"
	"syscall"
)

// watchdogScript waits for the end of its input, which comes when the process
// that holds the other end of the pipe dies, and then stops the server. A line
// read first means that the server is not to be touched any more.
const watchdogScript = `read -r line || kill -INT "$1"`

// watchByPipe has a small shell send SIGINT to pid when this process dies,
// however it dies. The caller calls release when pid has ended by itself.
func watchByPipe(pid int) (release func()) {
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "sh", strconv.Itoa(pid)) //nolint:noctx // it outlives us: that is what it is for
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return func() {}
	}
	if err := cmd.Start(); err != nil {
		_ = stdin.Close() // nobody reads it
		return func() {}
	}
	return func() {
		_, _ = io.WriteString(stdin, "released\n") // where it was killed, there is nobody to release
		_ = stdin.Close()
		_ = cmd.Wait()
	}
}
