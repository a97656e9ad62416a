package gate

import (
	"net"
	"net/netip"
	"sync"
)

// limitedListener bounds how many connections are open, in all and from one address. One too many is closed at once, which
// costs less than to keep it waiting: whoever holds thousands of idle connections must not keep the others out.
type limitedListener struct {
	net.Listener
	total, perAddress int // 0: no limit
	exempt            func(netip.Addr) bool

	mu    sync.Mutex
	open  int
	peers map[string]int
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err //nolint:wrapcheck // the server recognises its listener's errors
		}
		peer := ""
		if l.perAddress > 0 {
			if a, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil && !l.exempt(a.Addr().Unmap()) {
				peer = addressKey(a.Addr())
			}
		}
		if !l.enter(peer) {
			_ = conn.Close() // it was never served
			continue
		}
		return &limitedConn{Conn: conn, leave: sync.OnceFunc(func() { l.leave(peer) })}, nil
	}
}

func (l *limitedListener) enter(peer string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total > 0 && l.open >= l.total || peer != "" && l.peers[peer] >= l.perAddress {
		return false
	}
	l.open++
	if peer != "" {
		l.peers[peer]++
	}
	return true
}

func (l *limitedListener) leave(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if peer == "" {
		return
	}
	if l.peers[peer]--; l.peers[peer] <= 0 {
		delete(l.peers, peer)
	}
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close() //nolint:wrapcheck // the server recognises its connections' errors
}
