package gate

import (
	"strconv"
	"strings"
	"time"
)

// ByteSize is a number of bytes, written in a routes file as 65536, 64KiB or 10MiB.
type ByteSize int64

// UnmarshalText reads a size.
func (b *ByteSize) UnmarshalText(text []byte) error {
	s, factor := strings.TrimSpace(string(text)), int64(1)
	for suffix, f := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			s, factor = strings.TrimSpace(rest), f
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > 1<<40/factor {
		return invalid("%q is not a size: write bytes, or a number with KiB, MiB or GiB", text)
	}
	*b = ByteSize(n * factor)
	return nil
}

// Duration is a time span, written in a routes file as 500ms, 30s or 2m.
type Duration time.Duration

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return invalid("%q is not a duration: write a number with ms, s, m or h", text)
	}
	*d = Duration(v)
	return nil
}
