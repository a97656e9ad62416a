//go:build unix

package gate

import (
	"net"
	"syscall"
)

// isQuiet reports whether a connection that waits for a request is open, and the other side has said nothing on it. What an upstream
// says without being asked would be taken for the answer to the next request.
func isQuiet(conn net.Conn) bool {
	tcp, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		quiet = err == syscall.EAGAIN
		return true // do not wait until there is something to read
	})
	return err == nil && quiet
}
