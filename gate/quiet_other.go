//go:build !unix

package gate

import "net"

// isQuiet cannot be told here: each request gets a connection of its own.
func isQuiet(net.Conn) bool { return false }
