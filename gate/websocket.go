package gate

import (
	"encoding/binary"
	"errors"
	"io"
)

// Status codes of a WebSocket's end (RFC 6455, section 7.4).
const (
	wsServiceRestart  = 1012 // come back soon
	wsPolicyViolation = 1008 // your credential is no longer good
)

// socketBody is a WebSocket's connection to the upstream. When the gate ends it, the client is told why by a proper close
// frame, if the upstream was not in the middle of a frame.
type socketBody struct {
	io.ReadWriteCloser
	stream *stream
	frames frameTracker
	rest   []byte
	over   bool
}

var errSocketEnded = errors.New("the gate ended the WebSocket")

func (b *socketBody) Read(p []byte) (int, error) {
	if !b.over {
		n, err := b.ReadWriteCloser.Read(p)
		b.frames.feed(p[:n])
		reason := endReason(b.stream.reason.Load())
		if err == nil || reason == endNone {
			return n, err //nolint:wrapcheck // the proxy knows its connections' errors
		}
		b.over = true
		if b.frames.between() {
			code := uint16(wsPolicyViolation)
			if reason == endDrain {
				code = wsServiceRestart
			}
			b.rest = binary.BigEndian.AppendUint16([]byte{0x88, 2}, code)
		}
		if n > 0 {
			return n, nil
		}
	}
	if len(b.rest) == 0 {
		// Not a plain end: the proxy would wait for the client to hang up, which one with a revoked credential may never do.
		return 0, errSocketEnded
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// frameTracker follows the frames of one direction, to know where one ends.
type frameTracker struct {
	head    [10]byte
	have    int    // bytes of the head
	payload uint64 // bytes still to come, mask included
}

// between reports whether no frame is half through.
func (f *frameTracker) between() bool { return f.have == 0 && f.payload == 0 }

func (f *frameTracker) feed(p []byte) {
	for len(p) > 0 {
		if f.payload > 0 {
			n := min(uint64(len(p)), f.payload)
			f.payload -= n
			p = p[n:]
			continue
		}
		f.head[f.have] = p[0]
		f.have++
		p = p[1:]
		if size, ok := f.size(); ok {
			f.have, f.payload = 0, size
		}
	}
}

// size returns how many bytes follow the head, once the head is whole.
func (f *frameTracker) size() (uint64, bool) {
	if f.have < 2 {
		return 0, false
	}
	mask := uint64(0)
	if f.head[1]&0x80 != 0 {
		mask = 4
	}
	switch short := f.head[1] & 0x7f; {
	case short < 126:
		return uint64(short) + mask, true
	case short == 126 && f.have == 4:
		return uint64(binary.BigEndian.Uint16(f.head[2:4])) + mask, true
	case short == 127 && f.have == 10:
		return binary.BigEndian.Uint64(f.head[2:10]) + mask, true
	}
	return 0, false
}
