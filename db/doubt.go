package db

import "sync/atomic"

// doubt says whether to look before writing. A look costs a round trip that is wasted while what is counted on holds; without one, where it
// does not, a whole group is written in vain. So once that has happened, there are looks for a while. The zero value has none.
type doubt struct{ left atomic.Int32 }

// lookAhead is how many groups look after one was written in vain.
const lookAhead = 100

func (d *doubt) raise() { d.left.Store(lookAhead) }

// due reports whether this group is to look.
func (d *doubt) due() bool {
	if d.left.Load() <= 0 {
		return false
	}
	d.left.Add(-1)
	return true
}
