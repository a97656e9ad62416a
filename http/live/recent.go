package live

import "github.com/google/uuid"

// recent remembers the last version of orders, and of those it knows at least the size that changed last: two generations, of which
// the older is forgotten when the younger is full.
type recent struct {
	size       int
	young, old map[uuid.UUID]seen
}

// seen is the last version of an order, and the newest transaction of the versions that led there.
type seen struct {
	version int32
	tx      int64
}

func newRecent(size int) *recent {
	return &recent{size: size, young: make(map[uuid.UUID]seen)}
}

func (r *recent) get(order uuid.UUID) seen {
	if s, ok := r.young[order]; ok {
		return s
	}
	return r.old[order]
}

// put notes a version. A lower one than known changes nothing.
func (r *recent) put(order uuid.UUID, version int32, tx int64) {
	s := r.get(order)
	if version <= s.version {
		return
	}
	if _, ok := r.young[order]; !ok && len(r.young) >= r.size {
		r.old, r.young = r.young, make(map[uuid.UUID]seen)
	}
	r.young[order] = seen{version: version, tx: max(tx, s.tx)}
}

// forget drops the orders without an event of a transaction from tx on, and reports whether none is left.
func (r *recent) forget(tx int64) bool {
	for _, m := range []map[uuid.UUID]seen{r.young, r.old} {
		for order, s := range m {
			if s.tx < tx {
				delete(m, order)
			}
		}
	}
	return len(r.young)+len(r.old) == 0
}
